"""From seeds to images: latents, one-step and Heun sampling, quantisation, grids."""

from sida.config.samplers import Sampler, heun_evaluations, read_sampler
from sida.sampling.generate import Drawer, Samples, generate, real_images, row_classes
from sida.sampling.samplers import (
    NO_CLASS,
    SeedStreams,
    heun,
    latents_for_seeds,
    multi_step,
    one_step,
    sigma_steps,
    to_uint8,
)
from sida.sampling.store import tile

__all__ = [
    "Drawer",
    "NO_CLASS",
    "Sampler",
    "Samples",
    "SeedStreams",
    "generate",
    "heun",
    "heun_evaluations",
    "latents_for_seeds",
    "multi_step",
    "one_step",
    "read_sampler",
    "real_images",
    "row_classes",
    "sigma_steps",
    "tile",
    "to_uint8",
]
