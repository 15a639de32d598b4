"""``sida-eval train-digits``: trains the embedded digits feature network again."""

from __future__ import annotations

import argparse

HELP = "Train the embedded digits feature network again (seconds) and print its held-out accuracy."
EXAMPLES = """examples:
  sida-eval train-digits                          # train, compare with the committed network, write nothing
  sida-eval train-digits --out digits.safetensors # write it
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--out", metavar="FILE", help="where to write the network (safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and order (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Trains, reports, and writes the file if asked to."""
    import time

    from eval.features.digits import WEIGHTS, read_weights, weights_digest
    from eval.features.train_digits import DigitsTraining, train_digits
    from sida.tensor_file import write_tensors

    start = time.monotonic()
    state, metadata = train_digits(DigitsTraining(seed=args.seed))
    digest = weights_digest(state)
    print(
        f"held-out accuracy {100 * metadata['held_out_accuracy']:.2f} % "
        f"({metadata['held_out_images']} of {metadata['held_out_images'] + metadata['train_images']} images, "
        f"{time.monotonic() - start:.1f} s)"
    )
    if WEIGHTS.is_file():
        same = digest == weights_digest(read_weights(WEIGHTS)[0])
        print(f"weights {digest[:12]}: {'equal to' if same else 'not bit-equal to'} the committed network")
    if args.out:
        write_tensors(args.out, state, metadata)
        print(args.out)
    return 0
