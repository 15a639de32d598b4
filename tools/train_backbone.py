"""Trains the weights of the digits backbone that the package contains: ``python -m tools.train_backbone OUT``.

The backbone shares no training image with the feature network for measuring (``eval/features/digits.py``), so that the
discriminator's features are not the measured ones.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from torch import Tensor

from sida.data import load_dataset
from sida.data.load import shuffled_digits
from sida.eval.measuring.trial import cpu_threads
from sida.files.tensors import read_tensors, write_tensors
from sida.networks.discriminators import DigitsBackbone
from tools.train_digits import Classified, FitSettings, fit


@dataclasses.dataclass(frozen=True)
class BackboneTraining(FitSettings):
    """Settings of the training of the committed weights; the split is always made with seed 0.

    Attributes:
        images: Number of images, on none of which the feature network for measuring was trained.
    """

    epochs: int = 120
    batch_size: int = 60
    images: int = 360


def backbone_split(count: int) -> tuple[Tensor, Tensor]:
    """Indices (int64) of the backbone's training images, and of all others."""
    order = shuffled_digits()
    return order[:count], order[count:]


def train_backbone(settings: BackboneTraining) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains the backbone in seconds, on one thread: the same seed on the same machine gives the same bytes.

    Returns:
        The float32 state dict, and metadata (settings, data digest, ``other_accuracy``: accuracy on other images).
    """
    dataset = load_dataset({"name": "digits", "kind": "digits"})
    train, others = backbone_split(settings.images)
    seen, unseen = dataset.network_input(dataset.images(train)), dataset.network_input(dataset.images(others))
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.manual_seed(settings.seed)
        net = DigitsBackbone()
        fit(Classified(net), seen, dataset.class_indices[train], settings)
        with torch.inference_mode():
            logits = net.classifier(net(unseen)[-1])
    accuracy = (logits.argmax(1) == dataset.class_indices[others]).double().mean().item()
    metadata = {
        "format": "sida-digits-backbone/1",
        "settings": dataclasses.asdict(settings),
        "dataset_sha256": dataset.sha256,
        "other_images": len(others),
        "other_accuracy": round(accuracy, 6),
    }
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}, metadata


def main(out: str) -> None:
    """Writes the weights, and says whether they are the committed ones to the bit."""
    state, metadata = train_backbone(BackboneTraining())
    write_tensors(out, state, metadata)
    stored, _ = read_tensors(DigitsBackbone.weights)
    equal = all(torch.equal(state[name], value) for name, value in stored.items())
    print(f"{metadata['other_accuracy']:.4f} of {metadata['other_images']} other images are classified correctly")
    print("bit-equal to the committed weights" if equal else "not bit-equal to the committed weights")


if __name__ == "__main__":
    main(sys.argv[1])
