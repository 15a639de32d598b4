"""From seeds to images: latents, one-step and Heun sampling, quantisation, grids."""

from sida import late_names

__getattr__, __dir__ = late_names(__name__)
