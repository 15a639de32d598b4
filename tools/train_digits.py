"""Trains the embedded digits feature network again (seconds): ``python tools/train_digits.py [--out FILE]``."""

from __future__ import annotations

import argparse

from eval.features.digits import DIGITS_NETWORK, DigitsTraining, read_weights, train_digits, weights_digest
from sida.files.tensors import write_tensors


def main() -> None:
    """Prints the held-out accuracy, compares with the committed weights, and writes the file if requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="FILE", help="file for the network (safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and order (default: 0)")
    args = parser.parse_args()
    state, metadata = train_digits(DigitsTraining(seed=args.seed))
    total = metadata["held_out_images"] + metadata["train_images"]
    print(
        f"held-out accuracy {100 * metadata['held_out_accuracy']:.2f} % "
        f"({metadata['held_out_images']} of {total} images)"
    )
    same = weights_digest(state) == weights_digest(read_weights(DIGITS_NETWORK)[0])
    print(f"weights {'equal to' if same else 'not bit-equal to'} the committed network")
    if args.out:
        write_tensors(args.out, state, metadata)
        print(args.out)


if __name__ == "__main__":
    main()
