"""``sida-eval features``: features of images as a file."""

from __future__ import annotations

import argparse

HELP = "Extract features of images or of a data set into a file (safetensors: features, and logits if there are any)."
EXAMPLES = """examples:
  sida-eval features --images samples.zip --extractor inception --out features.safetensors
  sida-eval features --dataset '{"name": "digits", "kind": "digits"}' --extractor digits --out digits.safetensors
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", metavar="JSON", help="data-set spec or file")
    what.add_argument("--images", metavar="PATH", help="folder, .zip, .tar, .npz or .npy")
    parser.add_argument("--extractor", required=True, help="feature network")
    parser.add_argument("--extractor-option", action="append", default=[], metavar="NAME.KEY=VALUE")
    parser.add_argument("--allow-tf32", action="store_true", help="as the field of the protocol; off by default")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--out", required=True, metavar="FILE", help="safetensors file to write")


def run(args: argparse.Namespace) -> int:
    """Extracts and writes."""
    from eval.commands._options import check_output, extractor_options
    from eval.measuring.extract import write_features

    check_output(args.out, "--out")
    name, shape = write_features(
        args.out,
        args.extractor,
        dataset=args.dataset,
        images=args.images,
        options=extractor_options(args.extractor_option).get(args.extractor),
        allow_tf32=args.allow_tf32,
        device=args.device,
    )
    print(f"{args.out}: {shape[0]:,} × {shape[1]} features of {name}")
    return 0
