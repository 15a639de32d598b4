"""Figures: build PDF, PNG and CSV from layouts and measurements."""

from eval.figures.kinds import load_figure_layout

__all__ = ["load_figure_layout"]
