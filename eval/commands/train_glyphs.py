"""``sida-eval train-glyphs``: trains the glyph feature network again."""

from __future__ import annotations

import argparse

HELP = "Train the feature network that saw no digit again (rendered fonts) and print its accuracy on the digits."
EXAMPLES = """examples:
  sida-eval train-glyphs                          # train, compare with the committed network, write nothing
  sida-eval train-glyphs --out glyphs.safetensors # write it
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--out", metavar="FILE", help="where to write the network (safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="seed of images, weights and order (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Trains, reports, and writes the file if asked to."""
    import time

    from eval.features.digits import read_weights, weights_digest
    from eval.features.glyphs import WEIGHTS
    from eval.features.train_glyphs import GlyphTraining, train_glyphs
    from sida.tensor_file import write_tensors

    start = time.monotonic()
    state, metadata = train_glyphs(GlyphTraining(seed=args.seed))
    digest = weights_digest(state)
    seconds = time.monotonic() - start
    print(f"accuracy on the digits {100 * metadata['digits_accuracy']:.2f} % (none was seen; {seconds:.1f} s)")
    if WEIGHTS.is_file():
        same = digest == weights_digest(read_weights(WEIGHTS)[0])
        print(f"weights {digest[:12]}: {'equal to' if same else 'not bit-equal to'} the committed network")
    if args.out:
        write_tensors(args.out, state, metadata)
        print(args.out)
    return 0
