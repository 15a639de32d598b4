"""Kinds of samplers of sCM's students; this module does not import torch."""

from sida.config.samplers import SamplerKind

_FURTHER = ("num_steps", "sigma_max", "kernels", "decoder")
CONSISTENCY = SamplerKind(further=_FURTHER)
SEGMENTS = SamplerKind(further=_FURTHER, steps=8)
