"""Figures: build PDF, PNG and CSV from layouts and measurements."""

from eval.figures.layout import load_figure_layout

__all__ = ["load_figure_layout"]
