"""Base class of extractors: callables with a name, a digest and a fixed number of features."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

from sida.errors import UserError

if TYPE_CHECKING:
    # The start of a workflow reads names of extractors and must not wait for torch.
    import torch


class Extractor(abc.ABC):
    """Maps uint8 images (N, C, H, W) to float32 features (N, num_features) on ``device``.

    Attributes:
        name: Name of the extractor in results; for a custom extractor ``module:class``.
        assets: Ids in ``config/assets.tsv`` that a custom extractor needs; the workflow fetches them first.
        sha256: Digest of the weights and of everything else that decides the output.
        num_features: Width of the features.
        num_classes: Width of the logits; 0 for a network without classes.
        at_once: Images of one pass on a processor, which bounds its memory; None: all images of a call.
        gradient: Whether features have a gradient with respect to the images (:meth:`differentiable`).
        model: Name of its network in timm; None: it is not one of timm's.
        device: Torch device of the features.
    """

    name: str
    assets: ClassVar[tuple[str, ...]] = ()
    sha256: str
    num_features: int
    num_classes: int = 0
    at_once: ClassVar[int | None] = None
    gradient: ClassVar[bool] = True
    model: ClassVar[str | None] = None

    def __init__(self, device: str | torch.device = "cpu") -> None:
        import torch

        self.device = torch.device(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features of a batch.

        Args:
            images: uint8 (N, C, H, W) on any device.

        Raises:
            UserError: Images that are not uint8 or have a shape this network cannot take.
        """
        return self._run(images, logits=False)[0]

    def features_and_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features and class logits (their softmax: probabilities) from one pass; logits are None without classes."""
        return self._run(images, logits=True)

    def differentiable(self, images: torch.Tensor) -> torch.Tensor:
        """Features with gradient, of images that are not rounded.

        Images of whole numbers have the features of :meth:`__call__`, up to the rounding of resizing.

        Args:
            images: float (N, C, H, W) in 0..255, on ``device``; values outside are taken as they are.

        Raises:
            UserError: The network gives no gradient, or cannot take images of this shape.
        """
        self.check_gradient()
        return self._forward(images, logits=False)[0]

    def check_gradient(self) -> None:
        """Refuses a network without :attr:`gradient`."""
        if not self.gradient:
            raise UserError(f"extractor '{self.name}'", "has no gradient", "use the published network it varies")

    def _run(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        with torch.inference_mode():
            batch = self._on_device(images)
            if self.at_once is None or self.device.type != "cpu" or len(batch) <= self.at_once:
                return self._forward(batch, logits)
            parts = [self._forward(part, logits) for part in batch.split(self.at_once)]
            features, logits_of_parts = zip(*parts)
            return torch.cat(features), None if logits_of_parts[0] is None else torch.cat(logits_of_parts)

    @abc.abstractmethod
    def _forward(self, images: torch.Tensor, logits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes float32 features (and logits if asked and possible) of checked uint8 images on ``device``."""

    def _on_device(self, images: torch.Tensor) -> torch.Tensor:
        """Checked uint8 images (N, C, H, W) on the extractor's device."""
        import torch

        where = f"extractor '{self.name}'"
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
            fault = f"images must be uint8 in 0..255, got {getattr(images, 'dtype', type(images).__name__)}"
            raise UserError(where, fault, "quantise them first (x * 127.5 + 128, clamped, truncated)")
        if images.ndim != 4:
            raise UserError(where, f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
        return images.to(self.device, non_blocking=True)


def as_rgb(images: torch.Tensor, name: str) -> torch.Tensor:
    """Repeats grey images to three channels, as the official tools do.

    Raises:
        UserError: Images with neither 1 nor 3 channels.
    """
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] != 3:
        raise UserError(f"extractor '{name}'", f"images must have 1 or 3 channels, got {images.shape[1]}")
    return images
