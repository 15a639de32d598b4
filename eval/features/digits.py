"""The embedded feature networks for 8×8 digits: small CNNs whose weights are part of the package.

The network `glyphs` was trained on renderings of fonts, so it shares no training images with generators or with the
network `digits`. Its recipe was chosen by looking at rendered and real digits and at the accuracy on real digits; no
weight was fitted to a real digit.

Features are the 256 activations after the last convolution and pooling. The penultimate layer of the classifier is not
used: it keeps little but the class, so that ten class means look almost like the data.

Features of GDD's discriminator for digits, to compare with features that GDD did not train against.

Trains the digits feature network: a few seconds on one core, bit for bit the same by seed on one machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eval.features.base import Extractor
from sida.data import load_dataset
from sida.data.digits import shuffled
from sida.errors import UserError
from sida.files.tensors import explained, read_tensors
from sida.machine import cpu_threads
from sida.networks.backbones import make_backbone

DIGITS_NETWORK = Path(__file__).with_name("digits.safetensors")
GLYPHS_NETWORK = Path(__file__).with_name("glyphs.safetensors")
_WIDTHS = (32, 64, 64)
#: Fewer features than `digits` reduce the bias of distances to few held-out images.
GLYPHS_WIDTHS = (32, 32, 32)
NUM_FEATURES = 4 * _WIDTHS[-1]
_CLASSES = 10


class DigitsNet(nn.Module):
    """Three convolutions, two poolings, two linear layers; input float32 (N, 1, 8, 8) in [-1, 1].

    Args:
        widths: Channels of the convolutions; each channel of the last one gives four features.
    """

    def __init__(self, widths: tuple[int, int, int] = _WIDTHS) -> None:
        super().__init__()
        first, second, last = widths
        self.convolutions = nn.Sequential(
            *convolution_block(1, first),
            nn.MaxPool2d(2),
            *convolution_block(first, second),
            *convolution_block(second, last),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(nn.Linear(4 * last, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, _CLASSES))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns features (N, 4 · last width) and logits (N, 10)."""
        features = self.convolutions(images)
        return features, self.classifier(features)


def convolution_block(inputs: int, outputs: int) -> list[nn.Module]:
    """Layers of a block: 3×3 convolution, batch normalisation, ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def check_shape(images: torch.Tensor, shape: tuple[int, int, int], name: str) -> None:
    """Refuses images of another shape than (N, *shape), which an extractor takes."""
    if tuple(images.shape[1:]) != shape:
        fault = f"images must have shape (N, {', '.join(map(str, shape))}), got {tuple(images.shape)}"
        raise UserError(f"extractor '{name}'", fault, "use 'inception' or 'pixels' for other images")


class DigitsExtractor(Extractor):
    """The committed digits network, or another one by ``path``."""

    name = "digits"
    num_features = NUM_FEATURES
    num_classes = _CLASSES
    widths = _WIDTHS
    image_shape = (1, 8, 8)

    def __init__(self, device: str | torch.device = "cpu", path: str | Path = DIGITS_NETWORK) -> None:
        super().__init__(device)
        state, self.metadata = read_weights(path)
        self.sha256 = weights_digest(state)
        net = self.network()
        net.load_state_dict(state)
        self._net: Any = net.eval().requires_grad_(False).to(self.device)

    @classmethod
    def network(cls) -> nn.Module:
        """A network before its weights are loaded: ``convolutions`` gives features, ``forward`` features and logits."""
        return DigitsNet(cls.widths)

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(torch.float32) / 127.5 - 1

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        check_shape(images, self.image_shape, self.name)
        x = self._input(images)
        if logits:
            features, classes = self._net(x)
            return features, classes
        return self._net.convolutions(x), None


class GlyphsExtractor(DigitsExtractor):
    """The committed glyph network, or another one by ``path``; features of its last convolution."""

    name = "glyphs"
    num_features = 4 * GLYPHS_WIDTHS[-1]
    widths = GLYPHS_WIDTHS

    def __init__(self, device: str | torch.device = "cpu", path: str | Path = GLYPHS_NETWORK) -> None:
        super().__init__(device, path)


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Reads the state dict and the metadata (training settings, held-out accuracy) of a digits network."""
    with explained(path, "not a digits network", "make one with `tools/train_digits.py`"):
        return read_tensors(path)


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and float bytes of weights; files with equal weights have equal digests."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


class DigitsBackboneExtractor(Extractor):
    """Last feature map of the digits backbone of the discriminator (:mod:`sida.networks.backbones`), 64 × 2 × 2."""

    name = "digits_backbone"
    num_features = 256

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        net = make_backbone("digits", "published", 1, 8, f"extractor '{self.name}'")
        self.sha256 = weights_digest(net.state_dict())
        self._net = net.to(self.device)

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        check_shape(images, (1, 8, 8), self.name)
        return self._net(images.to(torch.float32) / 127.5 - 1)[-1].flatten(1), None


@dataclass(frozen=True)
class FitSettings:
    """Settings of the training of a small classifier.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        max_lr: Peak of the one-cycle learning rate.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Label smoothing of the cross-entropy.
        input_noise: Std of Gaussian noise on inputs in [-1, 1], since generated images have more than 17 grey levels.
    """

    epochs: int = 30
    batch_size: int = 64
    max_lr: float = 5e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    input_noise: float = 0.1


@dataclass(frozen=True)
class DigitsTraining(FitSettings):
    """Settings of the committed network.

    Attributes:
        seed: Seed of the split, the weights, the order, the noise and the dropout.
        held_out: Number of images that are not used for training.
    """

    seed: int = 0
    held_out: int = 360


def split(settings: DigitsTraining) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (int64) of the training and the held-out images, determined by the seed."""
    order = shuffled(settings.seed)
    return order[settings.held_out :], order[: settings.held_out]


def train_digits(settings: DigitsTraining) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains on the embedded digits and measures the held-out accuracy.

    Returns:
        The float32 state dict and the metadata to store beside it (settings, data digest, ``held_out_accuracy``).
    """
    dataset = load_dataset({"name": "digits", "kind": "digits"})
    train, held_out = split(settings)
    seen, unseen = (
        (dataset.network_input(dataset.images(part)), dataset.class_indices[part]) for part in (train, held_out)
    )
    state, accuracy = fit_and_test(DigitsNet, seen, unseen, settings, settings.seed)
    metadata = {
        "format": "sida-digits-features/1",
        "settings": asdict(settings),
        "dataset_sha256": dataset.sha256,
        "train_images": len(train),
        "held_out_images": len(held_out),
        "held_out_accuracy": accuracy,
    }
    return state, metadata


def fit_and_test(
    make: Callable[[], torch.nn.Module],
    seen: tuple[torch.Tensor, torch.Tensor],
    unseen: tuple[torch.Tensor, torch.Tensor],
    settings: FitSettings,
    seed: int,
) -> tuple[dict[str, torch.Tensor], float]:
    """Trains a new network on one thread, reproducibly by a seed.

    Args:
        make: Makes the network, which gives features and logits.
        seen: Images float32 ``(N, C, H, W)`` to fit to, and their classes int64 ``(N,)``.
        unseen: Images and classes for the accuracy.
        settings: Settings of the training.
        seed: Seed of the weights, the order, the noise and the dropout.

    Returns:
        The float32 state dict, and the accuracy to six decimals.
    """
    # One thread fixes the order of sums; more do not speed up such small networks.
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.manual_seed(seed)
        net = fit(make(), *seen, settings)
        with torch.inference_mode():
            logits = net(unseen[0])[1]
    accuracy = (logits.argmax(1) == unseen[1]).double().mean().item()
    return {key: value.detach().contiguous() for key, value in net.state_dict().items()}, round(accuracy, 6)


def fit(net: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, settings: FitSettings) -> torch.nn.Module:
    """Trains a network on images float32 (N, C, H, W) of classes int64 (N,) by torch's random state; returns it."""
    net.train()
    steps = -(-len(images) // settings.batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.max_lr, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_lr, epochs=settings.epochs, steps_per_epoch=steps
    )
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(images)).split(settings.batch_size):
            noisy = images[batch] + settings.input_noise * torch.randn_like(images[batch])
            loss = torch.nn.functional.cross_entropy(
                net(noisy)[1], classes[batch], label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()
