"""SiD's α where everything is known exactly: Gaussians and a two-mode mixture in two dimensions.

The derivation, and what it says about the paper's Figures 1 and 2: docs/alpha.md.
"""
