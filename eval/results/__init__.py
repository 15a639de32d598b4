"""Results: trial files, their long table and its summary, published numbers, and all of it as DataFrames (`load`)."""

from eval.results.frames import load

__all__ = ["load"]
