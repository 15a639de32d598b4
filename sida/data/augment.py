"""EDM's non-leaking augmentation: random transformations, with their parameters as labels for the network.

Each transformation happens with probability ``p`` times its multiplier; its parameters become label columns, which are
zero if it does not happen. The order of transformations, draws and labels is the official one
(NVlabs/edm:training/augment.py; facts 26 of tests/golden/README.md), so recorded draws give recorded images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sida.config.augmentation import OFFICIAL_FLAGS, AugmentConfig, AugmentFlags
from sida.config.mapping import from_mapping
from sida.config.ranges import NotNegative
from sida.data.colour import COLOUR_LABELS, transform_colours
from sida.data.draws import DrawSource
from sida.data.warp import mirrored, warp
from sida.runtime.devices import to_device

_LABELS = {
    "xflip": 1,
    "yflip": 1,
    "rotate_int": 2,
    "translate_int": 2,
    "scale": 1,
    "rotate_frac": 2,
    "aniso": 2,
    "translate_frac": 2,
    **COLOUR_LABELS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentPipe(AugmentFlags):
    """Augmentation of a batch of images.

    Attributes:
        p: Probability of each transformation before its multiplier.
    """

    p: NotNegative = 1.0

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str = "augment", official: Mapping[str, float] = OFFICIAL_FLAGS
    ) -> AugmentPipe:
        """Builds the pipe from ``{p, flags}``; ``flags`` maps fields to values, the ``official`` set when left out.

        Raises:
            UserError: Unknown flags or values out of range.
        """
        spec = from_mapping(AugmentConfig, config, where)
        return cls(**(official if spec.flags is None else spec.flags), p=spec.p)

    @property
    def label_dim(self) -> int:
        """Width of the label rows: 9 for the official flags."""
        return sum(width for name, width in _LABELS.items() if getattr(self, name) > 0)

    def __call__(
        self,
        images: torch.Tensor,
        draws: Iterable[torch.Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augments images.

        Args:
            images: float32 ``(N, C, H, W)``; not changed.
            draws: Raw draws in call order that replace the random ones; several calls may share one iterator.
            generator: Source of the draws; with a CPU generator nothing waits for a GPU.

        Returns:
            Augmented images, and labels float32 ``(N, label_dim)`` on the same device.
        """
        source = DrawSource(images.device, generator, draws)
        labels: list[torch.Tensor] = []
        images = self._move_pixels(images, source, labels)
        images = self._warp(images, source, labels)
        images = transform_colours(images, self, self.chosen, source, labels)
        if not labels:
            return images, images.new_zeros(len(images), 0)
        columns = torch.cat([column.reshape(len(images), -1).to(torch.float32) for column in labels], 1)
        return images, to_device(columns, images.device)

    def _move_pixels(self, images: torch.Tensor, source: DrawSource, labels: list[torch.Tensor]) -> torch.Tensor:
        """Applies flips, quarter turns and moves by whole pixels, without interpolation."""
        count, _, height, width = images.shape
        for name, axis in (("xflip", 3), ("yflip", 2)):
            multiplier = getattr(self, name)
            if multiplier > 0:
                flip = source.randint(2, count, 1, 1, 1)
                flip = self.chosen(flip, source.rand(count, 1, 1, 1), multiplier)
                images = torch.where(to_device(flip == 1, images.device), images.flip(axis), images)
                labels.append(flip)
        if self.rotate_int > 0:
            turns = source.randint(4, count, 1, 1, 1)
            turns = self.chosen(turns, source.rand(count, 1, 1, 1), self.rotate_int)
            labels += [((turns == 1) | (turns == 2)), ((turns == 2) | (turns == 3))]
            options = [images, images.flip(3).transpose(2, 3), images.flip(2, 3), images.flip(2).transpose(2, 3)]
            for number in (1, 2, 3):
                images = torch.where(to_device(turns == number, images.device), options[number], images)
        if self.translate_int > 0:
            share = source.rand(2, count, 1, 1, 1) * 2 - 1
            share = self.chosen(share, source.rand(1, count, 1, 1, 1), self.translate_int)
            limit_x, limit_y = width * self.translate_int_max, height * self.translate_int_max
            move_x, move_y = (share[0] * limit_x).round().flatten(), (share[1] * limit_y).round().flatten()
            images = _take(images, move_x, 3)
            # Downward moves are negative, as in the original, since networks learnt the label's sign.
            images = _take(images, -move_y, 2)
            labels.append(torch.stack([move_x / limit_x, move_y / limit_y], 1))
        return images

    def _warp(self, images: torch.Tensor, source: DrawSource, labels: list[torch.Tensor]) -> torch.Tensor:
        """Applies scaling, rotation, stretching and fractional moves as one affine warp."""
        count, _, height, width = images.shape
        linear: torch.Tensor | None = None  # maps output to input positions; None is the identity
        offset: torch.Tensor | None = None
        if self.scale > 0:
            log_scale = self.chosen(source.randn(count), source.rand(count), self.scale)
            labels.append(log_scale)
            zoom = torch.exp2(-log_scale * self.scale_std)
            linear = _then(linear, torch.diag_embed(torch.stack([zoom, zoom], 1)))
        if self.rotate_frac > 0:
            angle = (source.rand(count) * 2 - 1) * (math.pi * self.rotate_frac_max)
            angle = self.chosen(angle, source.rand(count), self.rotate_frac)
            labels.append(torch.stack([angle.cos() - 1, angle.sin()], 1))
            linear = _then(linear, _rotation(angle))
        if self.aniso > 0:
            log_stretch = source.randn(count)
            direction = (source.rand(count) * 2 - 1) * math.pi
            log_stretch = self.chosen(log_stretch, source.rand(count), self.aniso)
            direction = torch.where(source.rand(count) < self.aniso_rotate_prob, direction, torch.zeros(()))
            labels.append(torch.stack([log_stretch * direction.cos(), log_stretch * direction.sin()], 1))
            squeeze = torch.exp2(-log_stretch * self.aniso_std)
            turn = _rotation(direction)
            stretched = turn.mT @ torch.diag_embed(torch.stack([squeeze, 1 / squeeze], 1)) @ turn
            # Turning forth and back causes rounding; images without stretch must stay exactly in place.
            still = (log_stretch == 0)[:, None, None]
            linear = _then(linear, torch.where(still, torch.eye(2, device=turn.device), stretched))
        if self.translate_frac > 0:
            share = self.chosen(source.randn(2, count), source.rand(1, count), self.translate_frac)
            labels.append(share.T)
            move = share.T * (torch.tensor([width, height], device=share.device) * self.translate_frac_std)
            offset = -move if linear is None else -(linear @ move[:, :, None])[:, :, 0]
        if linear is None and offset is None:
            return images
        device = (linear if linear is not None else offset).device  # type: ignore[union-attr]
        if linear is None:
            linear = torch.eye(2, device=device).expand(count, 2, 2)
        if offset is None:
            offset = torch.zeros(count, 2, device=device)
        return warp(images, linear, offset)

    def chosen(self, value: torch.Tensor, uniform: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Keeps a transformation's parameter with probability ``multiplier * p``, else sets it to 0 (no change)."""
        return torch.where(uniform < multiplier * self.p, value, torch.zeros_like(value))


def _then(linear: torch.Tensor | None, step: torch.Tensor) -> torch.Tensor:
    return step if linear is None else linear @ step


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices ``(N, 2, 2)``; exactly the identity for angle 0."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _take(images: torch.Tensor, move: torch.Tensor, axis: int) -> torch.Tensor:
    """Moves each image by its own whole number of pixels along an axis, mirrored at the borders."""
    size = images.shape[axis]
    positions = torch.arange(size, device=move.device) - move[:, None].long()
    index = to_device(mirrored(positions, size), images.device)
    index = index[:, None, None, :] if axis == 3 else index[:, None, :, None]
    return images.gather(axis, index.expand(images.shape))
