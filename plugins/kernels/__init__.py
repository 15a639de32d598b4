"""Triton kernels for the operations of a U-Net between its convolutions, and for the optimizer."""
