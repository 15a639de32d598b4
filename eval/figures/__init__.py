"""Figures: curves over training and grids of samples, from layouts (data) to PDF, PNG and CSV."""

from eval.figures.gather import Sources, gather
from eval.figures.layout import CurvesLayout, SamplesLayout, load_figure_layout

__all__ = [
    "CurvesLayout",
    "SamplesLayout",
    "Sources",
    "gather",
    "load_figure_layout",
]
