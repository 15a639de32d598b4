"""Trains the glyph network again: same seed, same packages, same machine, same bytes; under a minute on one core."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from eval.features.digits import DigitsNet
from eval.features.glyph_images import glyph_fields, render
from eval.features.glyphs import WIDTHS
from eval.features.train_digits import FitSettings, fit, one_thread
from sida.data import load_dataset


@dataclass(frozen=True)
class GlyphTraining(FitSettings):
    """Settings of the committed network.

    Attributes:
        seed: Seed of the images, the weights, the order, the noise and the dropout.
        images: Rendered digits, equally many of each class.
    """

    epochs: int = 12
    batch_size: int = 100
    input_noise: float = 0.15
    seed: int = 0
    images: int = 16000


def train_glyphs(settings: GlyphTraining) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains on rendered digits, and measures the accuracy on the real ones, none of which it was trained on.

    Returns:
        The float32 state dict and the metadata to store beside it (settings, data digest, ``digits_accuracy``).
    """
    digits = load_dataset({"name": "digits", "kind": "digits"})
    classes = torch.arange(settings.images) % 10
    with torch.random.fork_rng(devices=[]), one_thread():
        generator = torch.Generator().manual_seed(settings.seed)
        fields = glyph_fields()
        images = torch.cat([render(fields, part, generator) for part in classes.split(1000)])
        torch.manual_seed(settings.seed)
        net = fit(DigitsNet(WIDTHS), digits.network_input(images), classes, settings)
        with torch.inference_mode():
            logits = net(digits.network_input(digits.images(range(len(digits)))))[1]
    accuracy = (logits.argmax(1) == digits.class_indices).double().mean().item()
    metadata = {
        "format": "sida-glyph-features/1",
        "settings": asdict(settings),
        "dataset_sha256": digits.sha256,
        "digits_accuracy": round(accuracy, 6),
    }
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}, metadata
