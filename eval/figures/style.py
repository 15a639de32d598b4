"""What all figures share: fonts, sizes, colours of reference lines, embedded fonts, fixed metadata."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_COLOURS = {"grey": "#333333", "purple": "#7F3C8D", "green": "#117733", "red": "#B3293A", "cyan": "#0E7C8A"}
DPI = 200


def new_figure(width: float, height: float, pad: float = 0.04) -> Figure:
    """An empty figure of the given size in inches with the suite's settings; ``pad`` is the margin in inches."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    matplotlib.rcParams.update(
        {
            "pdf.fonttype": 42,
            "font.family": "DejaVu Sans",
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


def save(figure: Figure, out: str | Path, title: str) -> list[Path]:
    """Writes ``out`` as vector PDF (fonts embedded) and its sibling PNG, each atomically; returns both paths."""
    import sida

    out = Path(out)
    written = []
    software = f"sida-repro {sida.__version__}"
    forms: dict[str, dict[str, Any]] = {
        ".pdf": {"metadata": {"Title": title, "Creator": software, "CreationDate": None}},
        ".png": {"metadata": {"Title": title, "Software": software}, "dpi": DPI},
    }
    for suffix, options in forms.items():
        for axes in figure.axes:
            for image in axes.get_images():
                # The PDF carries the picture itself; the PNG resamples it to its own pixels.
                image.set_interpolation("none" if suffix == ".pdf" else "auto")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], **options)
        with atomic_path(out.with_suffix(suffix)) as temporary:
            temporary.write_bytes(buffer.getvalue())
        written.append(out.with_suffix(suffix))
    return written
