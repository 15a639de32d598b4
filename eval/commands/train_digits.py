"""``sida-eval train-digits``: trains the embedded digits feature network again."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.cli.arguments import whole

if TYPE_CHECKING:
    import torch

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

    from eval.features.digits import DIGITS_NETWORK, DigitsTraining, train_digits

    start = time.monotonic()
    state, metadata = train_digits(DigitsTraining(seed=args.seed))
    print(
        f"held-out accuracy {100 * metadata['held_out_accuracy']:.2f} % "
        f"({metadata['held_out_images']} of {metadata['held_out_images'] + metadata['train_images']} images, "
        f"{time.monotonic() - start:.1f} s)"
    )
    compare_and_write(state, metadata, DIGITS_NETWORK, args.out)
    return 0


def compare_and_write(
    state: dict[str, torch.Tensor], metadata: Mapping[str, Any], committed: Path, out: str | None
) -> None:
    """Prints whether trained weights are bit-equal to the committed ones, and writes them to ``out``.

    Args:
        state: Trained weights.
        metadata: Metadata of the file.
        committed: File of the network in the package; missing before the network is first made.
        out: File to write; None writes nothing.
    """
    from eval.features.digits import read_weights, weights_digest
    from sida.files.tensors import write_tensors

    digest = weights_digest(state)
    if committed.is_file():
        same = digest == weights_digest(read_weights(committed)[0])
        print(f"weights {digest[:12]}: {'equal to' if same else 'not bit-equal to'} the committed network")
    if out:
        write_tensors(out, state, metadata)
        print(out)
