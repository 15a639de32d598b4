"""``sida train-backbone``: trains the embedded digits backbone of GDD's discriminator again."""

from __future__ import annotations

import argparse

from sida.cli.arguments import add_whole

HELP = "Train the frozen digits backbone of GDD's discriminator again (seconds)."
EXAMPLES = """examples:
  sida train-backbone                          # train, compare with the committed weights, write nothing
  sida train-backbone --out digits.safetensors # write them
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--out", metavar="FILE", help="file for the weights (safetensors)")
    add_whole(parser, "--seed", "seed of weights and order (default: 0)", default=0, metavar="SEED")


def run(args: argparse.Namespace) -> int:
    """Trains the backbone, prints its accuracy, and writes the file if requested."""
    import torch

    from sida.discriminator.digits import DIGITS_WEIGHTS, BackboneTraining, train_backbone
    from sida.files.tensors import read_tensors, write_tensors

    state, metadata = train_backbone(BackboneTraining(seed=args.seed))
    print(
        f"accuracy {100 * metadata['other_accuracy']:.2f} % on the {metadata['other_images']} images that it was not "
        f"trained on ({metadata['settings']['images']} were)"
    )
    if DIGITS_WEIGHTS.is_file():
        committed = read_tensors(DIGITS_WEIGHTS)[0]
        same = all(torch.equal(value, committed[name]) for name, value in state.items())
        print(f"weights {'equal to' if same else 'not bit-equal to'} the committed ones")
    if args.out:
        write_tensors(args.out, state, metadata)
        print(args.out)
    return 0
