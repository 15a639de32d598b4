"""Judges: feature networks and metrics beyond those of the papers."""
