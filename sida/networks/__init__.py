"""Denoising U-Nets and their preconditioning, with the option and parameter names of the official networks."""

from sida import late_names

__getattr__, __dir__ = late_names(__name__)
