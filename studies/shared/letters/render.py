"""Rendered images of capital letters in the fonts of matplotlib: a data set of full size without a download.

Image i depends on i only: a counter-based draw gives its font, place, slant, size, weight, colours, texture and light.
Classes alternate, so that each class has equally many images.
"""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from eval.figures.style import import_matplotlib
from sida.machine import derive_seed


@dataclasses.dataclass(frozen=True)
class RenderedSet:
    """A rendered data set.

    Attributes:
        letters: Letters, one class each.
        fonts: Font files of matplotlib, without suffix.
        resolution: Height and width.
        subsets: First index and number of images of each subset; subsets do not overlap.
        spread: Range of place, rotation, slant, size and weight as a share of the full range; below 1 letters are
            light on a dark ground.
        held_out_fonts: Fonts of the subset ``test``; empty takes those of the data set.
        grey: Draw the ink alone, light on black in one channel, larger, with means over 4×4 dots as in the digits.
    """

    letters: str
    fonts: tuple[str, ...]
    resolution: int
    subsets: dict[str, tuple[int, int]]
    spread: float = 1.0
    held_out_fonts: tuple[str, ...] = ()
    grey: bool = False


#: Fonts that no data set has, with which the feature network for measuring is trained.
FEATURE_FONTS = (
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralItalic",
    "STIXGeneralBol",
    "cmb10",
    "cmtt10",
)
_HELD_OUT = ("DejaVuSans-Oblique", "DejaVuSerif-Italic", "STIXGeneral", "cmss10")
RENDERED = {
    "glyphs32": RenderedSet(
        letters=string.ascii_uppercase,
        fonts=(
            "DejaVuSans",
            "DejaVuSans-Bold",
            "DejaVuSans-Oblique",
            "DejaVuSans-BoldOblique",
            "DejaVuSansMono-Bold",
            "DejaVuSerif",
            "DejaVuSerif-Bold",
            "DejaVuSerif-Italic",
            "STIXGeneral",
            "STIXGeneralBolIta",
            "cmr10",
            "cmss10",
            "cmti10",
        ),
        resolution=32,
        subsets={"train": (0, 50_000), "test": (50_000, 10_000)},
    ),
}
# Ten letters that differ less, at a quarter of the pixels, for a training on two cores.
RENDERED["glyphs16"] = dataclasses.replace(
    RENDERED["glyphs32"],
    letters=string.ascii_uppercase[:10],
    fonts=("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold"),
    resolution=16,
    spread=0.2,
    subsets={"train": (0, 10_000), "test": (10_000, 2_500)},
)
# Ten letters as small and grey as the digits; the held-out images have other fonts.
RENDERED["glyphs8"] = dataclasses.replace(
    RENDERED["glyphs32"],
    letters=string.ascii_uppercase[:10],
    fonts=tuple(font for font in RENDERED["glyphs32"].fonts if font not in _HELD_OUT),
    held_out_fonts=_HELD_OUT,
    resolution=8,
    grey=True,
    subsets={"train": (0, 1_800), "test": (1_800, 1_000)},
)

#: Half the side of a field, in heights of a glyph.
HALF_SIDE = 0.8
_FIELD = 96  # pixels of a field
_CHUNK = 500  # images rendered at once
_DOTS = 4  # dots along a pixel of a grey picture
_ENLARGED = 0.85  # share of the plane that a grey picture shows
_GRID = 5  # control points of the background texture along a side
_DRAWS = 21 + _GRID**2  # uniform numbers of an image


def rendered_images(name: str, subset: str, count: int | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Renders images of a data set in the order of their indices.

    Args:
        name: Key of :data:`RENDERED`.
        subset: Name of the subset.
        count: Number of images; None takes the whole subset.

    Yields:
        Pixels uint8 ``(H, W, 3)``, or ``(H, W)`` of a grey data set, and the class.
    """
    spec = RENDERED[name]
    first, total = spec.subsets[subset]
    fields = glyph_fields((subset == "test" and spec.held_out_fonts) or spec.fonts, spec.letters)
    render = render_grey if spec.grey else render_letters
    end = first + (total if count is None else min(count, total))
    for begin in range(first, end, _CHUNK):
        indices = range(begin, min(begin + _CHUNK, end))
        classes = np.array(indices) % len(spec.letters)
        yield from zip(
            render(fields, classes, indices, name, spec.resolution, spec.spread), classes.tolist(), strict=True
        )


def _source(name: str, subset: str, count: int | None) -> tuple[int, Iterator[tuple[np.ndarray, int]]]:
    """Number of images of a subset, and the images: a source of ``sida data prepare``."""
    return RENDERED[name].subsets[subset][1], rendered_images(name, subset, count)


GLYPHS32 = functools.partial(_source, "glyphs32")
GLYPHS16 = functools.partial(_source, "glyphs16")
GLYPHS8 = functools.partial(_source, "glyphs8")


def render_letters(
    fields: np.ndarray, classes: np.ndarray, indices: Sequence[int], seed: str, resolution: int, spread: float = 1.0
) -> np.ndarray:
    """Renders images, each with the draws of its index.

    Args:
        fields: See :func:`glyph_fields`.
        classes: Glyph of each image, int64 ``(N,)``.
        indices: Index of each image, which decides everything except its class.
        seed: Name of the stream of draws.
        resolution: Height and width R.
        spread: See :class:`RenderedSet`.

    Returns:
        uint8 ``(N, R, R, 3)``.
    """
    u, x, y, ink = _drawn(fields, classes, indices, seed, resolution, spread)
    ink = ink[..., None]
    colours = u[:, 8:21, 0, 0]
    dark = (colours[:, :1] < 0.5).astype(np.float64)
    ground = 0.45 * colours[:, 1:4] + 0.55 * (1 - dark)
    second = ground + 0.5 * (colours[:, 4:7] - 0.5)
    letter = 0.4 * colours[:, 7:10] + 0.6 * dark
    spline = _spline(resolution)
    texture = (spline @ u[:, 21:, 0, 0].reshape(-1, _GRID, _GRID) @ spline.T)[..., None]
    paper = ground[:, None, None] * (1 - texture) + second[:, None, None] * texture
    angle, strength = 2 * np.pi * u[:, 18], 0.3 * u[:, 19]
    light = 1 + strength * (np.cos(angle) * x + np.sin(angle) * y)
    picture = (paper * (1 - ink) + letter[:, None, None] * ink) * light[..., None]
    return np.rint(255 * picture.clip(0, 1)).astype(np.uint8)


def render_grey(
    fields: np.ndarray, classes: np.ndarray, indices: Sequence[int], seed: str, resolution: int, spread: float = 1.0
) -> np.ndarray:
    """Renders ink alone, light on black; arguments as of :func:`render_letters`, result uint8 ``(N, R, R)``."""
    ink = _drawn(fields, classes, indices, seed, _DOTS * resolution, spread, _ENLARGED)[3]
    dots = ink.reshape(len(ink), resolution, _DOTS, resolution, _DOTS)
    return np.rint(255 * dots.mean((2, 4))).astype(np.uint8)


def _drawn(
    fields: np.ndarray,
    classes: np.ndarray,
    indices: Sequence[int],
    seed: str,
    resolution: int,
    spread: float,
    shown: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws of each image ``(N, _DRAWS, 1, 1)``, coordinates of its pixels, and the share of ink in each."""
    u = np.stack([_uniform(seed, index) for index in indices])[:, :, None, None]
    if spread < 1:
        # All in the lower half: draw 8 then makes every ground dark.
        u[:, 1:9] = 0.5 + spread * (u[:, 1:9] - 1)
    fonts = (u[:, 0, 0, 0] * len(fields)).astype(np.int64)
    axis = shown * ((2 * np.arange(resolution) + 1) / resolution - 1)
    x, y = axis[None, None, :], axis[None, :, None]
    return u, x, y, _coverage(fields[fonts, classes], x, y, u[:, 1:8], resolution)


def _coverage(fields: np.ndarray, x: np.ndarray, y: np.ndarray, u: np.ndarray, resolution: int) -> np.ndarray:
    """Share of each pixel that ink covers, float64 ``(N, R, R)``."""
    angle, slant, width = 0.5 * (u[:, 0] - 0.5), 0.5 * (u[:, 1] - 0.5), 0.8 + 0.35 * u[:, 2]
    height = 1.05 + 0.55 * u[:, 3]  # of the picture's 2
    px, py = x - 0.36 * (u[:, 4] - 0.5), y - 0.36 * (u[:, 5] - 0.5)
    across = (np.cos(angle) * px + np.sin(angle) * py) / height
    down = (np.cos(angle) * py - np.sin(angle) * px) / height
    across = (across + slant * down) / width
    cell = _FIELD / (2 * HALF_SIDE)
    column, row = ((a + HALF_SIDE) * cell - 0.5 for a in (across, down))
    distance = _bilinear(fields, row.clip(0, _FIELD - 1.001), column.clip(0, _FIELD - 1.001))
    weight = 0.05 * u[:, 6] - 0.015
    return np.asarray((0.5 + (distance + weight) * height * resolution / 2).clip(0, 1))


def _bilinear(fields: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    top, left = row.astype(np.int64), column.astype(np.int64)
    down, across = row - top, column - left
    image = np.arange(len(fields))[:, None, None]
    upper = fields[image, top, left] * (1 - across) + fields[image, top, left + 1] * across
    lower = fields[image, top + 1, left] * (1 - across) + fields[image, top + 1, left + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


@functools.cache
def _spline(resolution: int) -> np.ndarray:
    """Smooth interpolation of the control points, float64 ``(R, _GRID)``; rows add up to 1."""
    places = np.arange(resolution)[:, None] / (resolution - 1) * (_GRID - 1)
    weights = np.exp(-1.5 * (places - np.arange(_GRID)) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _uniform(seed: str, index: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=derive_seed(0, seed, index))).random(_DRAWS)


@functools.cache
def glyph_fields(fonts: tuple[str, ...], letters: str, size: int = _FIELD) -> np.ndarray:
    """Signed distances to the outlines, positive inside, in heights of the glyph: float64 ``(fonts, letters, S, S)``.

    A field spans :data:`HALF_SIDE` heights to each side of the glyph's centre.
    """
    return np.stack([[_field(font, letter, size) for letter in letters] for font in fonts])


def _field(font: str, letter: str, size: int) -> np.ndarray:
    matplotlib = import_matplotlib()
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath
    from scipy.ndimage import distance_transform_edt

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    outline = TextPath((0, 0), letter, size=100, prop=FontProperties(fname=str(file)))
    low, high = outline.vertices.min(0), outline.vertices.max(0)
    height, centre = (high - low)[1], (low + high) / 2
    x, y = np.meshgrid(*[HALF_SIDE * (2 * (np.arange(size) + 0.5) / size - 1)] * 2)
    points = centre + height * np.stack([x.ravel(), -y.ravel()], 1)
    # Even-odd over the closed parts: a hole lies in two of them.
    parts = [Outline(part).contains_points(points) for part in outline.to_polygons()]
    inside = np.logical_xor.reduce(parts).reshape(size, size)
    distance: np.ndarray = distance_transform_edt(inside) - distance_transform_edt(~inside)
    return distance * 2 * HALF_SIDE / size
