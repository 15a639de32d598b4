"""``sida average``: computes a further average of a teacher's weights from stored averages (post-hoc EMA)."""

from __future__ import annotations

import argparse

from sida.cli.arguments import add_whole, existing, number

HELP = "Compute a further average of a teacher's weights from stored averages (EDM2's post-hoc EMA)."
EXAMPLES = """examples:
  sida average teachers/imagenet512-s/snapshots/*.safetensors --std 0.13 --out teacher-0.130.safetensors
  sida average teachers/mine/snapshots/*.safetensors --std 0.08 --nimg 50000000 --out earlier.safetensors

The stored averages come from a teacher trained with power_ema (for example [0.05, 0.1]) and snapshot_kimg. The second
line of the output is the error of the profile: below 0.05 the result is as good as an average kept during training.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("sources", nargs="+", type=existing(), metavar="NETWORK", help="stored averages of one run")
    parser.add_argument(
        "--std", type=number("--std", 0), required=True, metavar="WIDTH", help="relative width wanted, e.g. 0.13"
    )
    add_whole(parser, "--nimg", "end of its profile (default: the newest's)", 1, metavar="IMAGES")
    parser.add_argument("--out", required=True, metavar="OUT.safetensors", help="network to write")


def run(args: argparse.Namespace) -> int:
    """Reconstructs the average and prints two lines."""
    from sida.training.averages import reconstruct_average

    distance = reconstruct_average(args.sources, args.std, args.out, args.nimg)
    print(f"{args.out}: average of width {args.std:g} from {len(args.sources)} stored ones")
    print(f"profile differs by {distance:.2g} of its norm")
    return 0
