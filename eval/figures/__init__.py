"""Figures: build PDF, PNG and CSV from layouts and measurements."""
