"""Trains the glyph networks, bit for bit the same by seed with the same packages on one machine.

The networks of 8×8 pictures take about a minute on one core, the network of ``glyphs32`` about ten minutes::

    python -m studies.shared.letters.train glyphs8                     # train, compare with the committed network
    python -m studies.shared.letters.train glyphs --out FILE           # the second network of the digits; write it
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.commands.train_digits import compare_and_write
from eval.features.digits import GLYPHS_NETWORK, GLYPHS_WIDTHS, DigitsNet, FitSettings, fit_and_test
from sida.data import load_dataset
from sida.machine import cpu_threads

from .digits import fields_of_digits, render
from .extractors import GLYPHS8_NETWORK, GLYPHS32_NETWORK, Glyphs32Net
from .render import FEATURE_FONTS, RENDERED, glyph_fields, render_grey, render_letters, rendered_images


@dataclass(frozen=True)
class GlyphTraining(FitSettings):
    """Settings of the committed network.

    Attributes:
        seed: Seed of the images, the weights, the order, the noise and the dropout.
        images: Number of rendered digits, equally many of each class.
    """

    epochs: int = 12
    batch_size: int = 100
    input_noise: float = 0.15
    seed: int = 0
    images: int = 16000


def train_glyphs(settings: GlyphTraining) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains on rendered digits and measures the accuracy on real digits.

    Returns:
        The float32 state dict and the metadata to store beside it (settings, data digest, ``digits_accuracy``).
    """
    digits = load_dataset({"name": "digits", "kind": "digits"})
    classes = torch.arange(settings.images) % 10
    with cpu_threads(1):
        generator = torch.Generator().manual_seed(settings.seed)
        fields = fields_of_digits()
        images = torch.cat([render(fields, part, generator) for part in classes.split(1000)])
    seen = digits.network_input(images), classes
    unseen = digits.network_input(digits.images(range(len(digits)))), digits.class_indices
    state, accuracy = fit_and_test(lambda: DigitsNet(GLYPHS_WIDTHS), seen, unseen, settings, settings.seed)
    metadata = {
        "format": "sida-glyph-features/1",
        "settings": asdict(settings),
        "dataset_sha256": digits.sha256,
        "digits_accuracy": accuracy,
    }
    return state, metadata


def train_glyphs8(settings: GlyphTraining) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains on grey letters in fonts that ``glyphs8`` does not have, and measures the accuracy on its held-out images.

    Returns:
        The float32 state dict and the metadata to store beside it (settings, ``held_out_accuracy``).
    """
    spec = RENDERED["glyphs8"]
    fields, classes = glyph_fields(FEATURE_FONTS, spec.letters), np.arange(settings.images) % len(spec.letters)
    parts = np.array_split(np.arange(settings.images), max(1, settings.images // 1000))
    drawn = [render_grey(fields, classes[part], part.tolist(), "glyphs8-features", 8) for part in parts]
    test, labels = zip(*rendered_images("glyphs8", "test"), strict=True)
    seen = _as_input(np.concatenate(drawn)[..., None]), torch.from_numpy(classes)
    unseen = _as_input(np.stack(test)[..., None]), torch.tensor(labels)
    state, accuracy = fit_and_test(lambda: DigitsNet(GLYPHS_WIDTHS), seen, unseen, settings, settings.seed)
    return state, {
        "format": "sida-glyphs8-features/1",
        "settings": asdict(settings),
        "held_out_accuracy": accuracy,
    }


@dataclass(frozen=True)
class Glyphs32Training(FitSettings):
    """Settings of the committed network of ``glyphs32``.

    Attributes:
        seed: Seed of the weights, the order, the noise and the dropout.
        images: Number of rendered letters, equally many of each class, in fonts that the data set does not have.
        held_out: Number of images of the subset ``test`` for the accuracy.
    """

    epochs: int = 8
    batch_size: int = 100
    seed: int = 0
    images: int = 26_000
    held_out: int = 5_200


def train_glyphs32(settings: Glyphs32Training) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains on letters in fonts that ``glyphs32`` does not have, and measures the accuracy on its images.

    Returns:
        The float32 state dict and the metadata to store beside it (settings, ``held_out_accuracy``).
    """
    letters = RENDERED["glyphs32"].letters
    fields = glyph_fields(FEATURE_FONTS, letters)
    classes = np.arange(settings.images) % len(letters)
    parts = np.array_split(np.arange(settings.images), max(1, settings.images // 1000))
    drawn = [render_letters(fields, classes[part], part.tolist(), "glyphs32-features", 32) for part in parts]
    test, labels = zip(*rendered_images("glyphs32", "test", settings.held_out), strict=True)
    seen = _as_input(np.concatenate(drawn)), torch.from_numpy(classes)
    unseen = _as_input(np.stack(test)), torch.tensor(labels)
    state, accuracy = fit_and_test(Glyphs32Net, seen, unseen, settings, settings.seed)
    metadata = {
        "format": "sida-glyphs32-features/1",
        "settings": asdict(settings),
        "held_out_accuracy": accuracy,
    }
    return state, metadata


def _as_input(pixels: np.ndarray) -> torch.Tensor:
    """Pixels uint8 ``(N, H, W, C)`` as inputs of networks: float32 ``(N, C, H, W)`` from -1 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def main(arguments: Sequence[str]) -> None:
    """Trains a network, prints its accuracy and whether it equals the committed one, and writes it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m studies.shared.letters.train", description=main.__doc__)
    parser.add_argument("network", choices=["glyphs", "glyphs8", "glyphs32"])
    parser.add_argument("--out", metavar="FILE", help="where to write the network (safetensors)")
    parser.add_argument("--seed", type=int, default=0, help="seed of images, weights and order (default: 0)")
    args = parser.parse_args(arguments)
    start, committed = time.monotonic(), Path()
    if args.network == "glyphs32":
        (state, metadata), committed = train_glyphs32(Glyphs32Training(seed=args.seed)), GLYPHS32_NETWORK
    elif args.network == "glyphs8":
        (state, metadata), committed = train_glyphs8(GlyphTraining(seed=args.seed)), GLYPHS8_NETWORK
    else:
        (state, metadata), committed = train_glyphs(GlyphTraining(seed=args.seed)), GLYPHS_NETWORK
    accuracy = metadata.get("held_out_accuracy", metadata.get("digits_accuracy"))
    print(f"accuracy on images of other fonts, or of digits, that training did not see: {100 * accuracy:.2f} %")
    print(f"{time.monotonic() - start:.1f} s")
    compare_and_write(state, metadata, committed, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
