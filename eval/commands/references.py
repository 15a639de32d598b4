"""``sida reference``: measures real images or samples of a teacher once."""

from __future__ import annotations

import argparse

from eval.commands._options import extractor_options, output, shared
from sida.cli.main import Verb


def _reference_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", metavar="JSON", help="data-set spec or file")
    shared(source, "--images")
    source.add_argument("--spec", metavar="JSON", help="teacher, protocol and data set: samples of a teacher")
    parser.add_argument("--extractor", help="feature network")
    parser.add_argument("--allow-tf32", action="store_true", help="allow TF32, like a protocol's allow_tf32")
    shared(parser, "--extractor-option", "--device")
    out = output("--out", ".safetensors")
    parser.add_argument("--out", required=True, type=out, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--key", default="teacher", help="the protocol's reference, with --spec (default: teacher)")
    parser.add_argument("--keep-features", action="store_true", help="for precision, recall and kernel distance")
    parser.add_argument("--ddof", type=int, choices=(0, 1), default=1, help="covariance divisor N - ddof (default: 1)")


def _reference(args: argparse.Namespace) -> int:
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
    names = ("out", "extractor", "dataset", "images", "keep_features", "ddof", "allow_tf32", "device")
    options = extractor_options(args.extractor_option, [args.extractor]).get(args.extractor)
    name, statistics = write_reference(**{name: getattr(args, name) for name in names}, options=options)
    print(f"{args.out}: {statistics.count:,} images of {name}, {statistics.num_features} features each")
    return 0


REFERENCE = Verb(
    "Measure a data set, real images or samples of a teacher once, as the reference of later measurements.",
    """examples:
  sida reference --dataset '{"name": "cifar10", "kind": "zip", "path": "cifar10.zip"}' --extractor inception \\
      --out cifar10-inception.safetensors
  sida reference --images real/ --extractor dinov2 --keep-features --out real.safetensors
  sida reference --spec '{"network": "teacher.safetensors", "protocol": "mine.yaml", "device": "cuda"}' \\
      --key teacher --out teacher-samples.safetensors
Then: sida score ... --reference edm=cifar10-inception.safetensors --reference teacher=teacher-samples.safetensors
""",
    _reference_arguments,
    _reference,
)
