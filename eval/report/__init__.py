"""The report: the page of a preset, and paper.pdf."""
