"""Figures: curves over training and grids of samples, from layouts (data) to PDF, PNG and CSV."""

from eval.figures.curves import Curve, Point, first_at_or_below, read_author_log, read_evaluations
from eval.figures.gather import Sources, gather
from eval.figures.layout import CurvesLayout, SamplesLayout, load_figure_layout

__all__ = [
    "Curve",
    "CurvesLayout",
    "Point",
    "SamplesLayout",
    "Sources",
    "first_at_or_below",
    "gather",
    "load_figure_layout",
    "read_author_log",
    "read_evaluations",
]
