"""Trains the frozen digits backbone of GDD's discriminator again: ``python tools/train_backbone.py [--out FILE]``."""

from __future__ import annotations

import argparse

import torch

from sida.discriminator.digits import DIGITS_WEIGHTS, BackboneTraining, train_backbone
from sida.files.tensors import read_tensors, write_tensors


def main() -> None:
    """Prints the accuracy, compares with the committed weights, and writes the file if requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="FILE", help="file for the weights (safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default: 0)")
    args = parser.parse_args()
    state, metadata = train_backbone(BackboneTraining(seed=args.seed))
    print(f"accuracy {100 * metadata['other_accuracy']:.2f} % on {metadata['other_images']} images not trained on")
    committed = read_tensors(DIGITS_WEIGHTS)[0]
    same = all(torch.equal(value, committed[name]) for name, value in state.items())
    print(f"weights {'equal to' if same else 'not bit-equal to'} the committed ones")
    if args.out:
        write_tensors(args.out, state, metadata)
        print(args.out)


if __name__ == "__main__":
    main()
