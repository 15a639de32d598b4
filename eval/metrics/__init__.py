"""Metrics: distances and scores of features, the sums they are computed from, and their kinds in protocols."""
