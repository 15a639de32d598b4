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

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from sida.config.recipe import AugmentConfig
from sida.config.settings import from_mapping
from sida.machine import to_device


class Draws:
    """Raw draws for a batch, in call order, and the labels made of them.

    Args:
        count: Images in the batch; the last axis of every draw.
        device: Device of the draws if they come neither from a generator nor from records.
        generator: Source of the draws, on its device.
        recorded: Recorded draws, one per call, on the CPU.
    """

    def __init__(
        self,
        count: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        recorded: Iterable[torch.Tensor] | None = None,
    ) -> None:
        self.count, self._generator = count, generator
        self._recorded = None if recorded is None else iter(recorded)
        default = device if recorded is None else torch.device("cpu")
        self.device = default if generator is None else generator.device
        self._columns = [torch.zeros(count, 0, device=self.device)]

    def rand(self, *rows: int) -> torch.Tensor:
        """Uniform in [0, 1), float32 ``(*rows, count)``."""
        return self._draw(torch.rand, (*rows, self.count))

    def randn(self, *rows: int) -> torch.Tensor:
        """Unit normal, float32 ``(*rows, count)``."""
        return self._draw(torch.randn, (*rows, self.count))

    def randint(self, high: int) -> torch.Tensor:
        """Integers in ``[0, high)``, int64 ``(count,)``."""
        return self._draw(functools.partial(torch.randint, high), (self.count,))

    def label(self, columns: torch.Tensor) -> torch.Tensor:
        """Adds ``(count,)`` or ``(count, columns)`` to the labels, and returns it."""
        self._columns.append(columns.reshape(self.count, -1).to(torch.float32))
        return columns

    def labels(self) -> torch.Tensor:
        """All labels in order, float32 ``(count, columns)``."""
        return torch.cat(self._columns, 1)

    def _draw(self, draw: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        if self._recorded is None:
            return draw(shape, generator=self._generator, device=self.device)
        return next(self._recorded).reshape(shape)


#: Transformations in order, with their numbers of label columns: exact pixel moves, filtered warps, colour changes.
LABELS: Mapping[str, int] = {
    "xflip": 1, "yflip": 1, "rotate_int": 2, "translate_int": 2, "scale": 1, "rotate_frac": 2, "aniso": 2,
    "translate_frac": 2, "brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 2, "saturation": 1,
}  # fmt: skip
_COLOURS = ("brightness", "contrast", "lumaflip", "hue", "saturation")
#: Multipliers of EDM, SiD and SiDA. Flips always have probability 1/2: otherwise their label could not be learnt.
EDM_FLAGS: Mapping[str, float] = {
    "xflip": 1e8, "yflip": 1, "scale": 1, "rotate_frac": 1, "aniso": 1, "translate_frac": 1,
}  # fmt: skip
#: Strengths: the move as a share of the image, and standard deviations of log2 of the size and of the brightness, and
#: of log2 of the contrast.
_MOVE, _SPREAD, _CONTRAST = 0.125, 0.2, 0.5


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
    # Other images must stay as they are to the bit, and warping takes time.
    rows = to_device(moved, images.device)
    result = images.clone()
    result[rows] = _warp_all(images[rows], linear[moved], offset[moved])
    return result


def _warp_all(images: torch.Tensor, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The equation of the module; arguments and result are those of :func:`warp`."""
    assert linear.shape == (len(images), 2, 2)
    assert offset.shape == (len(images), 2)
    height, width = images.shape[-2:]
    left, top, right, bottom = _margins(linear, offset, width, height)
    up_x = _sent_to(_upsampling(width, left, right), images)
    up_y = _sent_to(_upsampling(height, top, bottom), images)
    fine = up_y @ images @ up_x.T
    assert fine.shape[2:] == (2 * (height + top + bottom), 2 * (width + left + right))

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
    margins = torch.cat([-lowest, highest]) + 2 * _REACH - torch.cat([reach, reach])
    # At least the filters' reach, at most one mirrored image.
    low = torch.tensor([2.0 * _REACH], device=linear.device)
    high = torch.tensor([width - 1, height - 1] * 2, device=linear.device)
    left, top, right, bottom = torch.minimum(torch.maximum(margins, low), high).ceil().int().tolist()
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
    # Column j has the filter's taps around row 2j; taps beyond the border are dropped.
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


class AugmentPipe:
    """Augments batches of images.

    Args:
        p: Probability of each transformation before its multiplier.
        multipliers: Multiplier of each transformation by its name in :data:`LABELS`; colour changes need 1 or 3
            channels.
    """

    def __init__(self, p: float = 1.0, **multipliers: float) -> None:
        self.p, self.multipliers = p, {name: value for name, value in multipliers.items() if value > 0}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str = "augment", flags: Mapping[str, float] = EDM_FLAGS
    ) -> AugmentPipe:
        """Builds the pipe of a setting ``{p}`` with a method's flags.

        Raises:
            UserError: An unknown key, or a value out of range.
        """
        return cls(from_mapping(AugmentConfig, config, where).p, **flags)

    @property
    def label_dim(self) -> int:
        """Width of the label rows: 9 for EDM's flags."""
        return sum(LABELS[name] for name in self.multipliers)

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
        source = Draws(len(images), images.device, generator, draws)
        for change in (self._move_pixels, self._warp, self._change_colours):
            images = change(images, source)
        labels = source.labels()
        assert labels.shape == (len(images), self.label_dim)
        return images, to_device(labels, images.device)

    def _move_pixels(self, images: torch.Tensor, source: Draws) -> torch.Tensor:
        """Applies flips, quarter turns and moves by whole pixels, without interpolation."""
        height, width = images.shape[2:]
        for name, axis in (("xflip", 3), ("yflip", 2)):
            if name in self.multipliers:
                flip = source.label(self._chosen(name, source.randint(2), source))
                images = _replaced(flip == 1, images.flip(axis), images)
        if "rotate_int" in self.multipliers:
            turns = self._chosen("rotate_int", source.randint(4), source)
            source.label(torch.stack([(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)], 1))
            options = [images.flip(3).transpose(2, 3), images.flip(2, 3), images.flip(2).transpose(2, 3)]
            for number, turned in enumerate(options, start=1):
                images = _replaced(turns == number, turned, images)
        if "translate_int" in self.multipliers:
            share = self._chosen("translate_int", source.rand(2) * 2 - 1, source)
            limit_x, limit_y = width * _MOVE, height * _MOVE
            move_x, move_y = (share[0] * limit_x).round(), (share[1] * limit_y).round()
            images = _moved(images, move_x, 3)
            # Downward moves are negative, as in the original, since networks learnt the label's sign.
            images = _moved(images, -move_y, 2)
            source.label(torch.stack([move_x / limit_x, move_y / limit_y], 1))
        return images

    def _warp(self, images: torch.Tensor, source: Draws) -> torch.Tensor:
        """Applies scaling, rotation, stretching and fractional moves as one affine warp."""
        count, _, height, width = images.shape
        steps: list[torch.Tensor] = []  # their product maps output to input positions
        if "scale" in self.multipliers:
            log_scale = source.label(self._chosen("scale", source.randn(), source))
            zoom = torch.exp2(-log_scale * _SPREAD)
            steps.append(torch.diag_embed(torch.stack([zoom, zoom], 1)))
        if "rotate_frac" in self.multipliers:
            angle = self._chosen("rotate_frac", (source.rand() * 2 - 1) * math.pi, source)
            source.label(torch.stack([angle.cos() - 1, angle.sin()], 1))
            steps.append(_rotation(angle))
        if "aniso" in self.multipliers:
            # The order of draws is the official one: the strength is chosen after the direction is drawn.
            log_stretch = source.randn()
            direction = (source.rand() * 2 - 1) * math.pi
            log_stretch = self._chosen("aniso", log_stretch, source)
            # Half of the stretches are along an axis.
            direction = torch.where(source.rand() < 0.5, direction, torch.zeros(()))
            source.label(torch.stack([log_stretch * direction.cos(), log_stretch * direction.sin()], 1))
            squeeze = torch.exp2(-log_stretch * _SPREAD)
            turn = _rotation(direction)
            stretched = turn.mT @ torch.diag_embed(torch.stack([squeeze, 1 / squeeze], 1)) @ turn
            # Turning forth and back causes rounding; images without stretch must stay exactly in place.
            still = (log_stretch == 0)[:, None, None]
            steps.append(torch.where(still, torch.eye(2, device=turn.device), stretched))
        linear = torch.eye(2, device=source.device).expand(count, 2, 2)
        if steps:
            linear = functools.reduce(torch.matmul, steps)
        offset = torch.zeros(count, 2, device=source.device)
        if "translate_frac" in self.multipliers:
            share = source.label(self._chosen("translate_frac", source.randn(2), source).T)
            move = share * (torch.tensor([width, height], device=share.device) * _MOVE)
            # The move is in output pixels; ``linear`` maps it to the input.
            offset = -(linear @ move[:, :, None])[:, :, 0]
        return warp(images, linear, offset)

    def _change_colours(self, images: torch.Tensor, source: Draws) -> torch.Tensor:
        """Applies colour changes to images of 3 channels, or 1, which takes the mean of the map over the colours."""
        if self.multipliers.keys().isdisjoint(_COLOURS):
            return images
        count, channels = images.shape[:2]
        if channels not in (1, 3):
            raise ValueError(f"colour changes need 1 or 3 channels, got {channels}; leave their flags out")
        # Rows act on (r, g, b, 1): colour = matrix @ rgb + bias.
        identity = torch.eye(3, device=source.device)
        matrix, bias = identity.expand(count, 3, 3), torch.zeros(count, 3, device=source.device)
        grey = torch.full((3, 3), 1 / 3, device=source.device)  # projection on the luma axis (1, 1, 1)/√3
        steps: list[torch.Tensor] = []
        if "brightness" in self.multipliers:
            weight = source.label(self._chosen("brightness", source.randn(), source))
            bias = bias + (weight * _SPREAD)[:, None]
        if "contrast" in self.multipliers:
            weight = source.label(self._chosen("contrast", source.randn(), source))
            steps.append(torch.exp2(weight * _CONTRAST)[:, None, None] * identity)
        if "lumaflip" in self.multipliers:
            flip = source.label(self._chosen("lumaflip", source.randint(2), source))
            steps.append(identity - 2 * grey * flip[:, None, None])
        if "hue" in self.multipliers:
            angle = self._chosen("hue", (source.rand() * 2 - 1) * math.pi, source)
            source.label(torch.stack([angle.cos() - 1, angle.sin()], 1))
            steps.append(_turn_about_luma(angle))
        if "saturation" in self.multipliers:
            weight = source.label(self._chosen("saturation", source.randn(), source))
            steps.append(grey + (identity - grey) * torch.exp2(weight)[:, None, None])
        for step in steps:
            matrix, bias = step @ matrix, (step @ bias[:, :, None])[:, :, 0]
        matrix, bias = _sent_to(matrix, images), _sent_to(bias, images)
        if channels == 1:
            return images * matrix.mean(1).sum(1)[:, None, None, None] + bias.mean(1)[:, None, None, None]
        return (matrix @ images.flatten(2) + bias[:, :, None]).reshape(images.shape)

    def _chosen(self, name: str, value: torch.Tensor, source: Draws) -> torch.Tensor:
        """Keeps parameters ``(…, N)`` with probability ``multiplier * p``, else sets them to 0 (no change)."""
        assert value.shape[-1] == source.count
        return torch.where(source.rand() < self.multipliers[name] * self.p, value, torch.zeros_like(value))


def _replaced(chosen: torch.Tensor, changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Takes the images that a mask ``(N,)`` chooses from ``changed`` and the others from ``images``."""
    assert chosen.shape == (len(images),)
    assert changed.shape == images.shape
    return torch.where(to_device(chosen, images.device)[:, None, None, None], changed, images)


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices ``(N, 2, 2)``; exactly the identity for angle 0."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _moved(images: torch.Tensor, move: torch.Tensor, axis: int) -> torch.Tensor:
    """Moves each image by its own whole number of pixels along an axis, mirrored at the borders."""
    size = images.shape[axis]
    positions = torch.arange(size, device=move.device) - move[:, None].long()
    index = to_device(mirrored(positions, size), images.device)
    index = index[:, None, None, :] if axis == 3 else index[:, None, :, None]
    return images.gather(axis, index.expand(images.shape))
