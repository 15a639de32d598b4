"""``sida-eval reference``: statistics of a data set, to measure against."""

from __future__ import annotations

import argparse

HELP = "Measure a data set (or a folder of real images) once, as the reference of later measurements."
EXAMPLES = """examples:
  sida-eval reference --dataset '{"name": "cifar10", "kind": "zip", "path": "cifar10.zip"}' --extractor inception \\
      --out cifar10-inception.safetensors
  sida-eval reference --images real/ --extractor dinov2 --keep-features --out real.safetensors
Then: sida-eval score ... --reference edm=cifar10-inception.safetensors
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", metavar="JSON", help="data-set spec or file")
    what.add_argument("--images", metavar="PATH", help="folder, .zip, .tar, .npz or .npy")
    parser.add_argument("--extractor", required=True, help="feature network")
    parser.add_argument("--extractor-option", action="append", default=[], metavar="NAME.KEY=VALUE")
    parser.add_argument("--keep-features", action="store_true", help="also for precision, recall and kernel distance")
    parser.add_argument("--ddof", type=int, choices=(0, 1), default=1, help="covariance divisor N - ddof (default: 1)")
    parser.add_argument("--allow-tf32", action="store_true", help="as the field of the protocol; off by default")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--out", required=True, metavar="FILE", help="safetensors file to write")


def run(args: argparse.Namespace) -> int:
    """Measures and writes."""
    from eval.commands._options import check_output, extractor_options
    from eval.measuring.extract import write_reference

    check_output(args.out, "--out", ".safetensors")
    name, statistics = write_reference(
        args.out,
        args.extractor,
        dataset=args.dataset,
        images=args.images,
        options=extractor_options(args.extractor_option).get(args.extractor),
        keep_features=args.keep_features,
        ddof=args.ddof,
        allow_tf32=args.allow_tf32,
        device=args.device,
    )
    print(f"{args.out}: {statistics.count:,} images of {name}, {statistics.num_features} features each")
    return 0
