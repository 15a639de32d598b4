"""EDM's non-leaking augmentation: random transformations, with their parameters as labels for the network.

Each transformation happens with probability ``p`` times its multiplier; its parameters become label columns, which are
zero if it does not happen. The order of transformations, draws and labels is the official one
(NVlabs/edm:training/augment.py; facts 26 of tests/golden/README.md), so recorded draws give recorded images.

Colour changes are one affine map of (R, G, B) per image. Affine warps resample with a wavelet filter: small matrix
products before and after one grid sample. Upsampling ×2 (with mirrored borders) and downsampling ×2 are linear and
separable, so each is a matrix per axis:

    out = D_y · sample(U_y · image · U_xᵀ, affine grid) · D_xᵀ

The filter is the orthogonal low-pass of the symlet with six vanishing moments: D·U is the identity, so an image
without warp can be skipped. Source of the construction: NVlabs/edm:training/augment.py; Karras et al.,
"Training GANs with limited data" (arXiv:2006.06676), appendix B.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from sida.config.recipe import AugmentConfig
from sida.config.settings import from_mapping
from sida.machine import to_device


class DrawSource:
    """Returns raw draws in call order.

    Args:
        device: Device of the draws, if neither a generator nor recorded draws are given.
        generator: Source of the draws, on its device.
        recorded: Recorded draws, one per call.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        recorded: Iterable[torch.Tensor] | None = None,
    ) -> None:
        self._generator = generator
        self._device = generator.device if generator is not None else torch.device(device)
        self._recorded: Iterator[torch.Tensor] | None = None if recorded is None else iter(recorded)

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1), float32."""
        return self._draw(torch.rand, shape)

    def randn(self, *shape: int) -> torch.Tensor:
        """Unit normal, float32."""
        return self._draw(torch.randn, shape)

    def randint(self, high: int, *shape: int) -> torch.Tensor:
        """Integers in ``[0, high)``, int64."""
        return self._draw(functools.partial(torch.randint, high), shape)

    def _draw(self, draw: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        if self._recorded is None:
            return draw(shape, generator=self._generator, device=self._device)
        return next(self._recorded)


#: Number of label columns of each change, in order.
COLOUR_LABELS: Mapping[str, int] = {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 2, "saturation": 1}


def _turn_about_luma(angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices ``(N, 3, 3)`` about (1, 1, 1)/√3 by Rodrigues' formula."""
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    axis_product = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device)
    identity = torch.eye(3, device=angle.device)
    return cos * identity + sin * axis_product / math.sqrt(3) + (1 - cos) / 3


#: Low-pass coefficients of the symlet "sym6" (I. Daubechies, Ten Lectures on Wavelets, table 6.3); sum √2.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_TAPS = len(SYM6)
_REACH = _TAPS // 4  # original pixels beyond a border that either filter uses


def warp(images: torch.Tensor, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Warps images: the value at output position q comes from input position ``linear @ q + offset``.

    Positions are (x, y) in pixels, relative to the image centre; the image is mirrored beyond its borders.

    Args:
        images: float32 ``(N, C, H, W)``.
        linear: float32 ``(N, 2, 2)``, on any device.
        offset: float32 ``(N, 2)``, on the device of ``linear``.

    Returns:
        float32 ``(N, C, H, W)``. Images with the identity are bit-identical.
    """
    moved = ((linear != torch.eye(2, device=linear.device)).flatten(1).any(1) | (offset != 0).any(1)).nonzero()[:, 0]
    if len(moved) == 0:
        return images
    if len(moved) == len(images):
        return _warp_all(images, linear, offset)
    rows = to_device(moved, images.device)
    result = images.clone()
    result[rows] = _warp_all(images[rows], linear[moved], offset[moved])
    return result


def _warp_all(images: torch.Tensor, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    left, top, right, bottom = _margins(linear, offset, width, height)
    up_x = _sent_to(_upsampling(width, left, right), images)
    up_y = _sent_to(_upsampling(height, top, bottom), images)
    fine = up_y @ images @ up_x.T

    # Both grids have half-pixel steps; the filter's even length shifts the fine grid by half of such a step.
    out_size = torch.tensor([2.0 * (width + 2 * _REACH), 2.0 * (height + 2 * _REACH)], device=linear.device)
    in_size = torch.tensor([2.0 * (width + left + right), 2.0 * (height + top + bottom)], device=linear.device)
    shift = torch.tensor([(left - right) / 2, (top - bottom) / 2], device=linear.device)
    start = 2 * (shift + offset) + linear.sum(2) / 2 - 0.5
    # affine_grid measures both grids from their centres in units of half their size.
    theta = torch.cat([linear * out_size, 2 * start[:, :, None]], 2) / in_size[:, None]
    shape = [len(images), images.shape[1], 2 * (height + 2 * _REACH), 2 * (width + 2 * _REACH)]
    grid = torch.nn.functional.affine_grid(_sent_to(theta, images), shape, align_corners=False)
    fine = torch.nn.functional.grid_sample(fine, grid, padding_mode="zeros", align_corners=False)
    return _sent_to(_downsampling(height), images) @ fine @ _sent_to(_downsampling(width), images).T


def _sent_to(tensor: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return to_device(tensor.to(images.dtype), images.device)


def _margins(linear: torch.Tensor, offset: torch.Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """Mirrored pixels (left, top, right, bottom) that the images of the batch need."""
    reach = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=linear.device)
    spread = linear.abs() @ reach  # largest |linear @ corner| along each axis
    lowest, highest = (offset - spread).amin(0), (offset + spread).amax(0)
    needed = torch.cat([-lowest, highest]) + 2 * _REACH - torch.cat([reach, reach])
    # At least the filters' reach.
    low = torch.tensor([2.0 * _REACH], device=linear.device)
    high = torch.tensor([width - 1, height - 1] * 2, device=linear.device)
    left, top, right, bottom = torch.minimum(torch.maximum(needed, low), high).ceil().int().tolist()
    return left, top, right, bottom


def mirrored(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Mirrors int64 positions beyond an axis of ``size`` back into it, without repeating border pixels."""
    period = max(2 * (size - 1), 1)
    folded = positions % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(folded)


@functools.lru_cache(maxsize=1024)
def _upsampling(size: int, before: int, after: int) -> torch.Tensor:
    """Matrix ``(2 (before + size + after), size)`` that mirrors the borders, then doubles the rate."""
    padded = size + before + after
    rows = 2 * np.arange(padded)[:, None] + np.arange(_TAPS) - _TAPS // 2 + 1
    columns = np.broadcast_to(np.arange(padded)[:, None], rows.shape)
    inside = (rows >= 0) & (rows < 2 * padded)
    filtering = np.zeros((2 * padded, padded))
    filtering[rows[inside], columns[inside]] = np.broadcast_to(SYM6, rows.shape)[inside]
    mirroring = np.zeros((padded, size))
    mirroring[np.arange(padded), mirrored(torch.arange(padded) - before, size).numpy()] = 1
    return torch.from_numpy((filtering @ mirroring).astype(np.float32))


@functools.lru_cache(maxsize=256)
def _downsampling(size: int) -> torch.Tensor:
    """Matrix ``(size, 2 (size + 2 reach))`` that halves the rate and drops the filter's reach on both sides."""
    matrix = np.zeros((size, 2 * (size + 2 * _REACH)))
    for row in range(size):
        start = 2 * (row + _REACH) - _TAPS // 2 + 1
        matrix[row, start : start + _TAPS] = SYM6
    return torch.from_numpy(matrix.astype(np.float32))


_LABELS = {
    "xflip": 1, "yflip": 1, "rotate_int": 2, "translate_int": 2, "scale": 1, "rotate_frac": 2, "aniso": 2,
    "translate_frac": 2, **COLOUR_LABELS,
}  # fmt: skip


#: Multipliers of EDM, SiD and SiDA. Flips always have probability 1/2: otherwise their label could not be learnt.
EDM_FLAGS: Mapping[str, float] = {
    "xflip": 1e8, "yflip": 1, "scale": 1, "rotate_frac": 1, "aniso": 1, "translate_frac": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentPipe:
    """Augmentation of a batch of images.

    Attributes:
        p: Probability of each transformation before its multiplier.
        xflip, yflip, rotate_int, translate_int: Multipliers of exact pixel moves.
        scale, rotate_frac, aniso, translate_frac: Multipliers of filtered geometric warps.
        brightness, contrast, lumaflip, hue, saturation: Multipliers of colour changes (1 or 3 channels).
        translate_int_max: Largest move, share of the image.
        scale_std: Standard deviation of log2 of the scale.
        rotate_frac_max: Largest rotation, 1 = half a turn.
        aniso_std: Standard deviation of log2 of the stretch.
        aniso_rotate_prob: Probability that the stretch is along a random direction.
        translate_frac_std: Standard deviation of the move, share of the image.
        brightness_std, contrast_std, hue_max, saturation_std: Strength of colour changes.
    """

    p: float = 1.0
    xflip: float = 0.0
    yflip: float = 0.0
    rotate_int: float = 0.0
    translate_int: float = 0.0
    scale: float = 0.0
    rotate_frac: float = 0.0
    aniso: float = 0.0
    translate_frac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    translate_int_max: float = 0.125
    scale_std: float = 0.2
    rotate_frac_max: float = 1.0
    aniso_std: float = 0.2
    aniso_rotate_prob: float = 0.5
    translate_frac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str = "augment", flags: Mapping[str, float] = EDM_FLAGS
    ) -> AugmentPipe:
        """Builds the pipe of a setting ``{p}`` with a method's flags.

        Raises:
            UserError: An unknown key, or a value out of range.
        """
        return cls(**flags, p=from_mapping(AugmentConfig, config, where).p)

    @property
    def label_dim(self) -> int:
        """Width of the label rows: 9 for EDM's flags."""
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
        images = self._change_colours(images, source, labels)
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
                flip = self._chosen(flip, source.rand(count, 1, 1, 1), multiplier)
                images = torch.where(to_device(flip == 1, images.device), images.flip(axis), images)
                labels.append(flip)
        if self.rotate_int > 0:
            turns = source.randint(4, count, 1, 1, 1)
            turns = self._chosen(turns, source.rand(count, 1, 1, 1), self.rotate_int)
            labels += [((turns == 1) | (turns == 2)), ((turns == 2) | (turns == 3))]
            options = [images, images.flip(3).transpose(2, 3), images.flip(2, 3), images.flip(2).transpose(2, 3)]
            for number in (1, 2, 3):
                images = torch.where(to_device(turns == number, images.device), options[number], images)
        if self.translate_int > 0:
            share = source.rand(2, count, 1, 1, 1) * 2 - 1
            share = self._chosen(share, source.rand(1, count, 1, 1, 1), self.translate_int)
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
            log_scale = self._chosen(source.randn(count), source.rand(count), self.scale)
            labels.append(log_scale)
            zoom = torch.exp2(-log_scale * self.scale_std)
            linear = _then(linear, torch.diag_embed(torch.stack([zoom, zoom], 1)))
        if self.rotate_frac > 0:
            angle = (source.rand(count) * 2 - 1) * (math.pi * self.rotate_frac_max)
            angle = self._chosen(angle, source.rand(count), self.rotate_frac)
            labels.append(torch.stack([angle.cos() - 1, angle.sin()], 1))
            linear = _then(linear, _rotation(angle))
        if self.aniso > 0:
            log_stretch = source.randn(count)
            direction = (source.rand(count) * 2 - 1) * math.pi
            log_stretch = self._chosen(log_stretch, source.rand(count), self.aniso)
            direction = torch.where(source.rand(count) < self.aniso_rotate_prob, direction, torch.zeros(()))
            labels.append(torch.stack([log_stretch * direction.cos(), log_stretch * direction.sin()], 1))
            squeeze = torch.exp2(-log_stretch * self.aniso_std)
            turn = _rotation(direction)
            stretched = turn.mT @ torch.diag_embed(torch.stack([squeeze, 1 / squeeze], 1)) @ turn
            # Turning forth and back causes rounding; images without stretch must stay exactly in place.
            still = (log_stretch == 0)[:, None, None]
            linear = _then(linear, torch.where(still, torch.eye(2, device=turn.device), stretched))
        if self.translate_frac > 0:
            share = self._chosen(source.randn(2, count), source.rand(1, count), self.translate_frac)
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

    def _change_colours(self, images: torch.Tensor, source: DrawSource, labels: list[torch.Tensor]) -> torch.Tensor:
        """Applies colour changes to images of 3 channels, or 1, which takes the mean of the map over the colours."""
        if not any(getattr(self, name) > 0 for name in COLOUR_LABELS):
            return images
        count, channels = images.shape[:2]
        if channels not in (1, 3):
            raise ValueError(f"colour changes need 1 or 3 channels, got {channels}; leave their flags out")
        # Rows act on (r, g, b, 1): colour = matrix @ rgb + bias.
        matrix = torch.eye(3).expand(count, 3, 3)
        bias = torch.zeros(count, 3)
        grey = torch.full((3, 3), 1 / 3)  # projection on the luma axis (1, 1, 1)/√3
        colourful = torch.eye(3) - grey
        steps: list[torch.Tensor] = []
        if self.brightness > 0:
            weight = self._chosen(source.randn(count), source.rand(count), self.brightness)
            labels.append(weight)
            bias = bias.to(weight.device) + (weight * self.brightness_std)[:, None]
        if self.contrast > 0:
            weight = self._chosen(source.randn(count), source.rand(count), self.contrast)
            labels.append(weight)
            steps.append(torch.exp2(weight * self.contrast_std)[:, None, None] * torch.eye(3, device=weight.device))
        if self.lumaflip > 0:
            flip = source.randint(2, count, 1, 1)
            flip = self._chosen(flip, source.rand(count, 1, 1), self.lumaflip)
            labels.append(flip)
            steps.append(torch.eye(3, device=flip.device) - 2 * grey.to(flip.device) * flip)
        if self.hue > 0:
            angle = (source.rand(count) * 2 - 1) * (math.pi * self.hue_max)
            angle = self._chosen(angle, source.rand(count), self.hue)
            labels.append(torch.stack([angle.cos() - 1, angle.sin()], 1))
            steps.append(_turn_about_luma(angle))
        if self.saturation > 0:
            weight = self._chosen(source.randn(count, 1, 1), source.rand(count, 1, 1), self.saturation)
            labels.append(weight)
            device = weight.device
            steps.append(grey.to(device) + colourful.to(device) * torch.exp2(weight * self.saturation_std))
        for step in steps:
            matrix, bias = step @ matrix.to(step.device), (step @ bias.to(step.device)[:, :, None])[:, :, 0]
        matrix, bias = (to_device(x.to(images.dtype), images.device) for x in (matrix, bias))
        if channels == 1:
            return images * matrix.mean(1).sum(1)[:, None, None, None] + bias.mean(1)[:, None, None, None]
        return (matrix @ images.flatten(2) + bias[:, :, None]).reshape(images.shape)

    def _chosen(self, value: torch.Tensor, uniform: torch.Tensor, multiplier: float) -> torch.Tensor:
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
