"""Renders digits from matplotlib's fonts, deformed and sampled like scikit-learn's digits.

The images contain no handwriting. Outlines of fonts become signed distances; a random affine map and a smooth random
displacement deform them, and a random level changes the thickness of the strokes. The result is fitted into a box of
32×32 dots, and the dots of each 4×4 block are counted (0..16), as for the bitmaps of the digits (Alpaydin and Kaynak
1998, UCI "optdigits").
"""

from __future__ import annotations

import functools
import math
import string

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from .render import HALF_SIDE, glyph_fields

#: Fonts of matplotlib, except fonts whose digits hang below the line or have double strokes.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
    "cmti10",
)
_SIZE = 48  # height and width of a field in pixels


@functools.cache
def fields_of_digits() -> Tensor:
    """Signed distances to the outlines of digits (:func:`.render.glyph_fields`): ``(fonts, 10, 48, 48)``."""
    return torch.tensor(glyph_fields(FONTS, string.digits, _SIZE), dtype=torch.float32)


def render(fields: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Random renderings of digits.

    Args:
        fields: Signed distances, float32 ``(fonts, 10, 48, 48)``.
        classes: Digits to render, int64 ``(N,)``.
        generator: Random numbers for fonts, shapes and positions.

    Returns:
        uint8 ``(N, 1, 8, 8)``, on the 17 levels of :class:`sida.data.digits.Digits`.
    """
    fonts = torch.randint(len(fields), (len(classes),), generator=generator)
    shapes = _as_written(fields[fonts, classes][:, None], classes, generator)
    bent = _bend(shapes, generator)
    # A random thickness of the stroke, but always some ink.
    level = (-0.04 - 0.03 * _normal(len(bent), generator=generator)).minimum(bent.flatten(1).amax(1) - 0.03)
    dots = avg_pool2d(_fit_box(bent > level[:, None, None], generator), 4)
    return (dots * 255).round().to(torch.uint8)


def _as_written(shapes: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Adds handwritten forms that fonts do not have: crossed 7, 9 with a straight leg, straight 6, 1 without a foot."""
    axis = HALF_SIDE * (2 * (torch.arange(_SIZE) + 0.5) / _SIZE - 1)
    x, y = axis[None, :], -axis[:, None]
    bar = torch.minimum(0.3 - x.abs(), 0.05 - y.abs())
    leg, top, foot = torch.maximum(x - 0.05, y + 0.12), torch.maximum(0.05 - x, 0.12 - y), (y + 0.36).expand_as(bar)
    forms = ((7, 0.4, torch.maximum, bar), (9, 0.5, torch.minimum, leg))
    for digit, share, combine, form in (*forms, (6, 0.4, torch.minimum, top), (1, 0.5, torch.minimum, foot)):
        chosen = (classes == digit) & (torch.rand(len(classes), generator=generator) < share)
        shapes = torch.where(chosen[:, None, None, None], combine(shapes, form), shapes)
    return shapes


def _bend(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """Deforms shapes ``(N, 48, 48)`` by rotation, shear, width and a smooth displacement."""
    count = len(shapes)
    angle, shear = math.radians(9) * _normal(count, generator=generator), 0.2 * _normal(count, generator=generator)
    width = 0.75 + 0.5 * torch.rand(count, generator=generator)
    zero = torch.zeros(count)
    rows = [angle.cos() / width, (shear - angle.sin()) / width, zero, angle.sin(), angle.cos(), zero]
    grid = affine_grid(torch.stack(rows, 1).view(count, 2, 3), [count, 1, _SIZE, _SIZE], align_corners=False)
    pull = interpolate(0.09 * _normal(count, 2, 4, 4, generator=generator), _SIZE, mode="bicubic", align_corners=True)
    return grid_sample(shapes, grid + pull.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)[:, 0]


def _fit_box(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Scales ink ``(N, 48, 48)`` to the height of 32 dots and at most three quarters of the width."""
    count = len(ink)
    (top, bottom), (left, right) = _ends(ink.any(2)), _ends(ink.any(1))
    height, width = (bottom - top) / 2, (right - left) / 2
    share = (width / height).clamp(max=1) * (0.9 + 0.3 * torch.rand(count, generator=generator))
    scale = width / share.clamp(0.3, 0.75)
    shift = 0.1 * _normal(count, generator=generator) * scale
    zero = torch.zeros(count)
    rows = [scale, zero, (left + right) / 2 - shift, zero, height, (top + bottom) / 2]
    grid = affine_grid(torch.stack(rows, 1).view(count, 2, 3), [count, 1, 32, 32], align_corners=False)
    return (grid_sample(ink[:, None].float(), grid, align_corners=False) > 0.5).float()


def _ends(used: Tensor) -> tuple[Tensor, Tensor]:
    """First and last line with ink of each image, as coordinates in -1..1."""
    lines = torch.arange(_SIZE)
    first, last = torch.where(used, lines, _SIZE).amin(1), torch.where(used, lines, -1).amax(1) + 1
    return 2 * first / _SIZE - 1, 2 * last / _SIZE - 1


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator)
