"""``sida-eval reference``: reference statistics of a data set, a folder of images, or samples of a teacher."""

from __future__ import annotations

import argparse

from eval.commands._options import extraction_arguments, extraction_settings

HELP = "Measure a data set, real images or samples of a teacher once, as the reference of later measurements."
EXAMPLES = """examples:
  sida-eval reference --dataset '{"name": "cifar10", "kind": "zip", "path": "cifar10.zip"}' --extractor inception \\
      --out cifar10-inception.safetensors
  sida-eval reference --images real/ --extractor dinov2 --keep-features --out real.safetensors
  sida-eval reference --spec '{"network": "teacher.safetensors", "protocol": "mine.yaml", "device": "cuda"}' \\
      --key teacher --out teacher-samples.safetensors
Then: sida-eval score ... --reference edm=cifar10-inception.safetensors --reference teacher=teacher-samples.safetensors
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    extraction_arguments(parser, sampled=True)
    parser.add_argument("--key", default="teacher", help="the protocol's reference, with --spec (default: teacher)")
    parser.add_argument("--keep-features", action="store_true", help="for precision, recall and kernel distance")
    parser.add_argument("--ddof", type=int, choices=(0, 1), default=1, help="covariance divisor N - ddof (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Measures the images and writes the reference."""
    from eval.measuring.extract import write_reference, write_teacher_reference
    from sida.config.settings import load_spec
    from sida.errors import UserError

    if args.spec is not None:
        own = write_teacher_reference(args.out, load_spec(args.spec), args.key)
        print(f"{args.out}: {own.count:,} {own.name}, extractors {', '.join(own.extractors)}")
        return 0
    if args.extractor is None:
        raise UserError("--extractor", "is missing", "name the feature network")
    name, statistics = write_reference(**extraction_settings(args), keep_features=args.keep_features, ddof=args.ddof)
    print(f"{args.out}: {statistics.count:,} images of {name}, {statistics.num_features} features each")
    return 0
