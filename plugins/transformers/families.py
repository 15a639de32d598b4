"""Families of the transformers; this module does not import torch."""

from sida.config.families import SD_LATENTS, Family

#: Transformers that predict a velocity on straight paths: SiT's and REPA's.
FLOW = Family(name="flow", title="Flow", like="edm", augmentation=False, latents=SD_LATENTS)
#: DiT's transformers, which predict noise on 1,000 steps.
DIT = Family(name="dit", title="DiT", like="edm", augmentation=False, latents=SD_LATENTS)
