"""``sida-eval reference``: reference statistics of a data set or a folder of images."""

from __future__ import annotations

import argparse

from eval.commands._options import check_output, extraction_arguments, extraction_settings

HELP = "Measure a data set (or a folder of real images) once, as the reference of later measurements."
EXAMPLES = """examples:
  sida-eval reference --dataset '{"name": "cifar10", "kind": "zip", "path": "cifar10.zip"}' --extractor inception \\
      --out cifar10-inception.safetensors
  sida-eval reference --images real/ --extractor dinov2 --keep-features --out real.safetensors
Then: sida-eval score ... --reference edm=cifar10-inception.safetensors
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    extraction_arguments(parser)
    parser.add_argument("--keep-features", action="store_true", help="for precision, recall and kernel distance")
    parser.add_argument("--ddof", type=int, choices=(0, 1), default=1, help="covariance divisor N - ddof (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Measures the images and writes the reference."""
    from eval.measuring.extract import write_reference

    check_output(args.out, "--out", ".safetensors")
    name, statistics = write_reference(**extraction_settings(args), keep_features=args.keep_features, ddof=args.ddof)
    print(f"{args.out}: {statistics.count:,} images of {name}, {statistics.num_features} features each")
    return 0
