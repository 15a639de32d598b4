"""Answers of a reproducibility checklist for a table, from its preset, logs, measurements and assets."""
