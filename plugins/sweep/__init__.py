"""Sweeps of a sampler's settings and of averages, with their selection counted (README.md)."""
