"""Figures: build PDF, PNG and CSV from layouts and measurements."""

from eval.figures.layout import build_figure, load_figure_layout

__all__ = ["build_figure", "load_figure_layout"]
