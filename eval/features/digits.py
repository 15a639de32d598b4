"""The embedded feature networks for 8×8 digits: small CNNs whose weights are part of the package.

The network `glyphs` was trained on renderings of fonts, so it shares no training images with generators or with the
network `digits`. Its recipe was chosen by looking at rendered and real digits and at the accuracy on real digits; no
weight was fitted to a real digit.

Features are the 256 activations after the last convolution and pooling. The penultimate layer of the classifier is not
used: it keeps little but the class, so that ten class means look almost like the data.

`digits_backbone` has the features of GDD's discriminator for digits, to compare them with features that GDD was not
trained against.

``tools/train_digits.py`` trains the network `digits` again.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sida.errors import UserError
from sida.eval.features.base import Extractor
from sida.files.tensors import read_errors, read_tensors
from sida.networks.discriminators import make_backbone

DIGITS_NETWORK = Path(__file__).with_name("digits.safetensors")
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
    """Refuses images of another shape than (N, *shape), the input of an extractor."""
    if tuple(images.shape[1:]) != shape:
        fault = f"images must have shape (N, {', '.join(map(str, shape))}), got {tuple(images.shape)}"
        raise UserError(f"extractor '{name}'", fault, "use 'inception' or 'pixels' for other images")


class SmallExtractor(Extractor):
    """A small classifier for grey images whose weights are part of the package, or another one by ``path``.

    Attributes:
        image_shape: Shape of an image.
        folder: Folder of the files of weights, which have the names of their extractors.
    """

    num_features = NUM_FEATURES
    num_classes = _CLASSES
    image_shape: tuple[int, int, int] = (1, 8, 8)
    folder = Path(__file__).parent

    def __init__(self, device: str | torch.device = "cpu", path: str | Path | None = None) -> None:
        super().__init__(device)
        path = path or self.folder / f"{self.name}.safetensors"
        with read_errors(path, f"holds no weights of the network '{self.name}'", "leave the option out"):
            state, metadata = read_tensors(path)
            net = self.network(metadata)
            net.load_state_dict(state)
        self.sha256 = weights_digest(state)
        self._net: Any = net.eval().requires_grad_(False).to(self.device)

    @classmethod
    def network(cls, metadata: Mapping[str, Any]) -> nn.Module:
        """A network with ``convolutions`` and ``classifier`` for the weights of a file with this metadata."""
        raise NotImplementedError

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        check_shape(images, self.image_shape, self.name)
        return images.to(torch.float32) / 127.5 - 1

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = self._net.convolutions(self._input(images))
        assert features.shape == (len(images), self.num_features)
        return features, self._net.classifier(features) if logits else None


class DigitsExtractor(SmallExtractor):
    """The network for digits."""

    name = "digits"
    widths = _WIDTHS

    @classmethod
    def network(cls, metadata: Mapping[str, Any]) -> nn.Module:
        """A network of the class's widths."""
        return DigitsNet(cls.widths)


class GlyphsExtractor(DigitsExtractor):
    """The network that was trained on renderings of fonts."""

    name = "glyphs"
    num_features = 4 * GLYPHS_WIDTHS[-1]
    widths = GLYPHS_WIDTHS


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and float bytes of weights; files with equal weights have equal digests."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


class DigitsBackboneExtractor(Extractor):
    """Last feature map of the digits backbone (:mod:`sida.networks.discriminators`), 64 × 2 × 2."""

    name = "digits_backbone"
    num_features = 256

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        net = make_backbone("digits", 1, 8, f"extractor '{self.name}'")
        self.sha256 = weights_digest(net.state_dict())
        self._net = net.to(self.device)

    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        check_shape(images, (1, 8, 8), self.name)
        return self._net(images.to(torch.float32) / 127.5 - 1)[-1].flatten(1), None
