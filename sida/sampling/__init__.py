"""From seeds to images: latents, one-step and Heun sampling, quantisation, grids."""

from sida.sampling.heun import heun, heun_evaluations, sigma_steps
from sida.sampling.one_step import one_step
from sida.sampling.quantise import to_uint8
from sida.sampling.seeds import SeedStreams, latents_for_seeds

__all__ = [
    "SeedStreams",
    "heun",
    "heun_evaluations",
    "latents_for_seeds",
    "one_step",
    "sigma_steps",
    "to_uint8",
]
