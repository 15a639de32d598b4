"""``sida-eval train-glyphs``: trains the glyph feature network again."""

from __future__ import annotations

import argparse

from sida.cli.arguments import whole

HELP = "Train the feature network that saw no digit again (rendered fonts) and print its accuracy on the digits."
EXAMPLES = """examples:
  sida-eval train-glyphs                          # train, compare with the committed network, write nothing
  sida-eval train-glyphs --out glyphs.safetensors # write it
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--out", metavar="FILE", help="where to write the network (safetensors)")
    parser.add_argument(
        "--seed", type=whole("--seed"), default=0, help="seed of images, weights and order (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, reports, and writes the file if asked to."""
    import time

    from eval.commands._trained import compare_and_write
    from eval.features.glyphs import WEIGHTS
    from eval.features.train_glyphs import GlyphTraining, train_glyphs

    start = time.monotonic()
    state, metadata = train_glyphs(GlyphTraining(seed=args.seed))
    seconds = time.monotonic() - start
    print(f"accuracy on the digits {100 * metadata['digits_accuracy']:.2f} % (none was seen; {seconds:.1f} s)")
    compare_and_write(state, metadata, WEIGHTS, args.out)
    return 0
