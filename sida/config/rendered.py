"""Rendered data sets by name: letters drawn with the fonts of matplotlib (:mod:`sida.data.glyphs`)."""

from __future__ import annotations

import dataclasses
import string


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
