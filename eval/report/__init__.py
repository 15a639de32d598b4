"""The report: the page of a preset, paper.pdf, and comparisons of two sets of measurements."""
