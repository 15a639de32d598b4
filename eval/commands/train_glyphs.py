"""``sida-eval train-glyphs``: trains a feature network of rendered glyphs again."""

from __future__ import annotations

import argparse

from sida.cli.arguments import whole

HELP = "Train a feature network of rendered glyphs again and print its accuracy on images that it was not trained on."
EXAMPLES = """examples:
  sida-eval train-glyphs                          # train, compare with the committed network, write nothing
  sida-eval train-glyphs --out glyphs.safetensors # write it
  sida-eval train-glyphs --size 32                # the network of the data set glyphs32
  sida-eval train-glyphs --letters                # the network of the data set glyphs8
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--size", type=int, choices=(8, 32), default=8, help="8: digits; 32: letters in colour (default: 8)"
    )
    parser.add_argument("--letters", action="store_true", help="with size 8: letters in grey, instead of digits")
    parser.add_argument("--out", metavar="FILE", help="where to write the network (safetensors)")
    parser.add_argument(
        "--seed", type=whole("--seed"), default=0, help="seed of images, weights and order (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, reports, and writes the file if asked to."""
    import time

    from eval.commands._trained import compare_and_write
    from eval.features.glyphs import GLYPHS8_NETWORK, GLYPHS32_NETWORK, GLYPHS_NETWORK
    from eval.features.train_glyphs import Glyphs32Training, GlyphTraining, train_glyphs, train_glyphs8, train_glyphs32

    start = time.monotonic()
    if args.size == 8 and args.letters:
        state, metadata = train_glyphs8(GlyphTraining(seed=args.seed))
        accuracy, where, committed = metadata["held_out_accuracy"], "glyphs8 (other fonts", GLYPHS8_NETWORK
    elif args.size == 8:
        state, metadata = train_glyphs(GlyphTraining(seed=args.seed))
        accuracy, where, committed = metadata["digits_accuracy"], "the digits (none was seen", GLYPHS_NETWORK
    else:
        state, metadata = train_glyphs32(Glyphs32Training(seed=args.seed))
        accuracy, where, committed = metadata["held_out_accuracy"], "glyphs32 (other fonts", GLYPHS32_NETWORK
    print(f"accuracy on {where}; {time.monotonic() - start:.1f} s): {100 * accuracy:.2f} %")
    compare_and_write(state, metadata, committed, args.out)
    return 0
