"""``sida-eval features``: features of images as a file."""

from __future__ import annotations

import argparse

from eval.commands._options import extraction_arguments, extraction_settings

HELP = "Extract features of images or of a data set into a file (safetensors: features, and logits if there are any)."
EXAMPLES = """examples:
  sida-eval features --images samples.zip --extractor inception --out features.safetensors
  sida-eval features --dataset '{"name": "digits", "kind": "digits"}' --extractor digits --out digits.safetensors
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    extraction_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Extracts the features and writes them."""
    from eval.measuring.extract import write_features

    name, shape = write_features(**extraction_settings(args))
    print(f"{args.out}: {shape[0]:,} × {shape[1]} features of {name}")
    return 0
