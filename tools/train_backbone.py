"""Trains the weights of the digits backbone that the package contains: ``python tools/train_backbone.py OUT``.

The backbone shares no training image with the feature network for measuring (``eval/features/digits.py``), so that the
discriminator's features are not the measured ones.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from torch import Tensor, nn

from sida.data import load_dataset
from sida.data.load import shuffled_digits
from sida.files.tensors import read_tensors, write_tensors
from sida.networks.discriminators import DIGITS_WEIGHTS, DigitsBackbone


@dataclasses.dataclass(frozen=True)
class BackboneTraining:
    """Settings of the training of the committed weights.

    Attributes:
        seed: Seed of weights, order, noise and dropout; the split is always that of seed 0.
        images: Number of images, on none of which the feature network for measuring was trained.
        epochs: Passes over the images.
        batch_size: Images per step.
        max_lr: Peak of the one-cycle learning rate.
        weight_decay: Weight decay of AdamW.
        input_noise: Standard deviation of Gaussian noise on inputs in [-1, 1].
    """

    seed: int = 0
    images: int = 360
    epochs: int = 120
    batch_size: int = 60
    max_lr: float = 5e-3
    weight_decay: float = 1e-2
    input_noise: float = 0.1


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
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        try:
            torch.manual_seed(settings.seed)
            net = _fit(dataset.network_input(dataset.images(train)), dataset.class_indices[train], settings)
            with torch.inference_mode():
                logits = net.classifier(net(dataset.network_input(dataset.images(others)))[-1])
        finally:
            torch.set_num_threads(threads)
    accuracy = (logits.argmax(1) == dataset.class_indices[others]).double().mean().item()
    metadata = {
        "format": "sida-digits-backbone/1",
        "settings": dataclasses.asdict(settings),
        "dataset_sha256": dataset.sha256,
        "other_images": len(others),
        "other_accuracy": round(accuracy, 6),
    }
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}, metadata


def _fit(images: Tensor, classes: Tensor, settings: BackboneTraining) -> DigitsBackbone:
    net = DigitsBackbone().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.max_lr, weight_decay=settings.weight_decay, fused=True)
    steps = -(-len(images) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_lr, epochs=settings.epochs, steps_per_epoch=steps
    )
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(images)).split(settings.batch_size):
            noisy = images[batch] + settings.input_noise * torch.randn_like(images[batch])
            loss = nn.functional.cross_entropy(net.classifier(net(noisy)[-1]), classes[batch], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def main(out: str) -> None:
    """Writes the weights, and says whether they are the committed ones to the bit."""
    state, metadata = train_backbone(BackboneTraining())
    write_tensors(out, state, metadata)
    kept, _ = read_tensors(DIGITS_WEIGHTS)
    equal = all(torch.equal(state[name], value) for name, value in kept.items())
    print(f"{metadata['other_accuracy']:.4f} of {metadata['other_images']} other images are classified correctly")
    print("bit-equal to the committed weights" if equal else "not bit-equal to the committed weights")


if __name__ == "__main__":
    main(sys.argv[1])
