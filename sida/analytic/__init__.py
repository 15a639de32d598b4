"""Exact study of SiD's α, on Gaussians and a two-mode mixture in two dimensions.

Derivation, and consequences for the paper's Figures 1 and 2: studies/alpha/README.md.
"""
