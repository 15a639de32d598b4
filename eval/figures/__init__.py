"""Figures: layouts (data) and measurements become PDF, PNG and CSV."""

from eval.figures.kinds import load_figure_layout

__all__ = ["load_figure_layout"]
