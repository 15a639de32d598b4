"""Statistics of differences: effects with intervals, components of variance, costs to a level, power.

Pure functions of numbers without files, runs or metrics.
"""
