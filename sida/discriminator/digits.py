"""Backbone for 8×8 digits: a small classifier whose weights are part of the package.

It shares no training image with the feature network for measuring (``eval/features/digits.py``), so that the
discriminator's features are not the measured ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sida.data import load_dataset
from sida.data.digits import shuffled
from sida.discriminator.backbones import Backbone
from sida.files.tensors import explained, read_tensors

DIGITS_WEIGHTS = Path(__file__).with_name("digits.safetensors")
DIGIT_CLASSES = 10


class DigitsBackbone(Backbone):
    """Three convolutions with maps of 8, 4 and 2 pixels, for images float32 ``(N, 1, 8, 8)`` in [-1, 1]."""

    image_channels = 1
    resolution = 8
    channels = (16, 32, 64)
    sizes = (16, 8, 4)
    mixing = 16
    widths = {4: 64, 8: 32, 16: 16}

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([_level(1, 16, pool=False), _level(16, 32), _level(32, 64)])
        # Used only to train the backbone.
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, DIGIT_CLASSES))

    def forward(self, images: Tensor) -> list[Tensor]:
        """See :class:`Backbone`."""
        maps, x = [], images
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps

    def load_published(self) -> None:
        """Loads the committed weights.

        Raises:
            UserError: The file is missing or damaged.
        """
        with explained(DIGITS_WEIGHTS, "not the digits backbone", "make one with `tools/train_backbone.py`"):
            self.load_state_dict(read_tensors(DIGITS_WEIGHTS)[0])


def _level(inputs: int, outputs: int, pool: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*([nn.MaxPool2d(2)] if pool else []), *layers)


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
    order = shuffled()
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
