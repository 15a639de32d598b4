"""``sida-eval train-digits``: trains the embedded digits feature network again."""

from __future__ import annotations

import argparse

from sida.cli.arguments import whole

HELP = "Train the embedded digits feature network again (seconds) and print its held-out accuracy."
EXAMPLES = """examples:
  sida-eval train-digits                          # train, compare with the committed network, write nothing
  sida-eval train-digits --out digits.safetensors # write it
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--out", metavar="FILE", help="where to write the network (safetensors)")
    parser.add_argument("--seed", type=whole("--seed"), default=0, help="seed of split, weights and order (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Trains, reports, and writes the file if asked to."""
    import time

    from eval.commands._trained import compare_and_write
    from eval.features.digits import DIGITS_NETWORK
    from eval.features.train_digits import DigitsTraining, train_digits

    start = time.monotonic()
    state, metadata = train_digits(DigitsTraining(seed=args.seed))
    print(
        f"held-out accuracy {100 * metadata['held_out_accuracy']:.2f} % "
        f"({metadata['held_out_images']} of {metadata['held_out_images'] + metadata['train_images']} images, "
        f"{time.monotonic() - start:.1f} s)"
    )
    compare_and_write(state, metadata, DIGITS_NETWORK, args.out)
    return 0
