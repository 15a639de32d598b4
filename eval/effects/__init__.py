"""How large differences are and how sure: effects with intervals, components of variance, costs to a level, power.

Pure functions of numbers; nothing here knows files, runs or metrics.
"""
