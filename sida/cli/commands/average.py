"""``sida average``: another average of a trained teacher's weights, from the kept ones (post-hoc EMA)."""

from __future__ import annotations

import argparse

from sida.cli.arguments import number, whole

HELP = "Make another average of a teacher's weights from the kept ones (EDM2's post-hoc EMA)."
EXAMPLES = """examples:
  sida average teachers/imagenet512-s/snapshots/*.safetensors --std 0.13 --out teacher-0.130.safetensors
  sida average teachers/mine/snapshots/*.safetensors --std 0.08 --nimg 50000000 --out earlier.safetensors

The kept averages come from a teacher trained with power_ema (say [0.05, 0.1]) and snapshot_kimg. The second line of the
output says how well they span the profile that was asked for: below 0.05 the result is as good as one kept in training.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("sources", nargs="+", metavar="NETWORK", help="kept averages of one run")
    parser.add_argument(
        "--std", type=number("--std", 0), required=True, metavar="WIDTH", help="relative width wanted, e.g. 0.13"
    )
    parser.add_argument(
        "--nimg", type=whole("--nimg", 1), metavar="IMAGES", help="where its profile ends (default: the newest's)"
    )
    parser.add_argument("--out", required=True, metavar="OUT.safetensors", help="network to write")


def run(args: argparse.Namespace) -> int:
    """Reconstructs and prints two lines."""
    from sida.training.reconstruction import reconstruct_average

    distance = reconstruct_average(args.sources, args.std, args.out, args.nimg)
    print(f"{args.out}: average of width {args.std:g} from {len(args.sources)} kept ones")
    print(f"profile differs by {distance:.2g} of its norm")
    return 0
