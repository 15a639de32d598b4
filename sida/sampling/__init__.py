"""From seeds to images: latents, one-step and Heun sampling, quantisation, grids."""

from sida.sampling.one_step import one_step
from sida.sampling.quantise import to_uint8
from sida.sampling.seeds import SeedStreams, latents_for_seeds

__all__ = ["SeedStreams", "latents_for_seeds", "one_step", "to_uint8"]
