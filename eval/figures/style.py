"""Style of all figures: sizes, fonts, fixed metadata, and colour, marker and dashes of curves.

A method (or α) looks the same in every panel of every figure.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.errors import say
from sida.eval.results.logs import Curve
from sida.eval.tables.render import spelled
from sida.files.atomic import write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_COLOURS = {"grey": "#333333", "purple": "#7F3C8D", "green": "#117733", "red": "#B3293A", "cyan": "#0E7C8A"}
DPI = 200
_FONT = "DejaVu Sans"


def import_matplotlib() -> Any:
    """Imports matplotlib; a ``matplotlibrc`` of the working folder, which may be a pipe, is not opened."""
    with contextlib.chdir(os.sep):
        import matplotlib
    return matplotlib


def literal(text: str) -> str:
    """Text for readers, escaped for Matplotlib, where two dollar signs enclose a formula."""
    text = spelled(text)
    return text.replace("$", r"\$") if text.count("$") > 1 else text


def new_figure(width: float, height: float, pad: float = 0.04) -> Figure:
    """An empty figure of the given size in inches with the suite's settings; ``pad`` is the margin in inches."""
    matplotlib = import_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Nor do other settings of the user change a figure.
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(
        {
            "pdf.fonttype": 42,
            "font.family": _FONT,
            "font.size": 7.5,
            "axes.titlesize": 8,
            "axes.labelsize": 7.5,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 6.8,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.2,
            "lines.markersize": 3.0,
            "image.composite_image": False,
        }
    )
    return Figure(
        figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=pad, h_pad=pad, wspace=0.02, hspace=0.02)
    )


def save(figure: Figure, out: str | Path, title: str, data: str) -> list[Path]:
    """Writes ``out`` as vector PDF (fonts embedded), its sibling PNG and its data (CSV), or none; returns the paths."""
    import sida

    out = Path(out)
    contents: dict[Path, str | bytes] = {}
    software = f"sida-repro {sida.__version__}"
    forms: dict[str, dict[str, Any]] = {
        ".pdf": {"metadata": {"Title": title, "Creator": software, "CreationDate": None}},
        ".png": {"metadata": {"Title": title, "Software": software}, "dpi": DPI},
    }
    for suffix, options in forms.items():
        for axes in figure.axes:
            for image in axes.get_images():
                # The PDF contains the picture itself; the PNG resamples it.
                image.set_interpolation("none" if suffix == ".pdf" else "auto")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], **options)
        contents[out.with_suffix(suffix)] = buffer.getvalue()
    contents[out.with_suffix(".csv")] = data
    if signs := _without_glyph(figure):
        say(f"note: {out}: {_FONT} has no {' '.join(signs)}, so that boxes are drawn; use other letters in labels")
    write_files(contents)
    return [*contents]


def _without_glyph(figure: Figure) -> list[str]:
    """Signs of the figure's texts that its font does not have."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    has = get_font(findfont(_FONT)).get_charmap()
    return sorted({sign for text in figure.findobj(Text) for sign in text.get_text() if ord(sign) not in has} - {"\n"})


#: Colour and marker of each method: Okabe & Ito's colours, which colour-blind readers can distinguish.
METHOD_LOOKS = {"sid": ("#0072B2", "o"), "sida": ("#D55E00", "s"), "sid2a": ("#009E73", "^"), "gdd": ("#CC79A7", "D")}
#: Looks of further curves in the order in which a figure takes them; purple is for teachers.
VARIANTS = (("#000000", "P"), ("#E69F00", "X"), ("#56B4E9", "d"), ("#8C564B", "<"), ("#999933", "v"), ("#7F7F7F", ">"))
_ALPHAS = (-0.25, 0.0, 0.5, 0.75, 1.0, 1.2, 1.5)
_ALPHA_MARKERS = "os^Dv<>PXp*"
SOLID, DASHED, DOTTED = None, (5.0, 1.5), (1.5, 1.2)


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a curve; ``dashes`` None is a solid line."""

    colour: str
    marker: str
    dashes: tuple[float, ...] | None = None


Key = tuple[str, str, float | None]


def looks_of(panels: Sequence[Sequence[Curve]], by_alpha: bool = False) -> dict[Key, Look]:
    """Looks of all curves of a figure, by label, method and α.

    If several curves have the same method and α, the first has the look of the method; each other label gets another
    look, which is the same in the whole figure.
    """
    looks: dict[Key, Look] = {}
    variants = 0
    label_of: dict[Look, str] = {}
    for curves in panels:
        label_of = {} if by_alpha else label_of
        for curve in curves:
            key = (curve.label, curve.method, curve.alpha)
            look = looks.get(key)
            if look is None:
                look = own_look(curve.method, curve.alpha, by_alpha)
                if look is None or label_of.get(look, curve.label) != curve.label:
                    round_number, number = divmod(variants, len(VARIANTS))
                    look = Look(*VARIANTS[number], (SOLID, DASHED, DOTTED)[round_number % 3])
                    variants += 1
                looks[key] = look
            label_of.setdefault(look, curve.label)
    return looks


def own_look(method: str, alpha: float | None, by_alpha: bool = False) -> Look | None:
    """The look of a method, or of an α in figures about α; None for a method without one.

    A method's curves share hue and marker: solid for α = 1 (or none), lighter and dashed above it, darker and dotted
    below.
    """
    if by_alpha and alpha is not None:
        import numpy as np

        matplotlib = import_matplotlib()
        from matplotlib.colors import to_hex

        # Viridis without its yellow end, in equal steps between the paper's values; a marker for each step of 0.05.
        fraction = np.interp(alpha, _ALPHAS, np.linspace(0, 0.92, len(_ALPHAS)))
        return Look(to_hex(matplotlib.colormaps["viridis"](fraction)), _ALPHA_MARKERS[round(20 * alpha) % 11])
    if method not in METHOD_LOOKS:
        return None
    colour, marker = METHOD_LOOKS[method]
    if alpha is None or alpha == 1:
        return Look(colour, marker)
    return Look(_mix(colour, 255 if alpha > 1 else 0, 0.4), marker, DASHED if alpha > 1 else DOTTED)


def _mix(colour: str, level: int, share: float) -> str:
    """A colour mixed with a share of grey ``level``."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (level - part)):02X}" for part in parts)
