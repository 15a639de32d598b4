"""Kinds of samplers of the transformers; this module does not import torch."""

from sida.config.samplers import TEACHER_SETTINGS, SamplerKind

#: Methods of ``flow``: evaluations of a step.
_EVALUATIONS = {"euler": 1, "heun": 2, "euler_maruyama": 1}
FLOW_SAMPLER = SamplerKind(
    arguments=("method", "last_step"),
    further=TEACHER_SETTINGS,
    steps=250,
    least=lambda sampler: 2 if sampler.method == "euler_maruyama" else 1,
    nfe=lambda sampler: _EVALUATIONS[sampler.method] * sampler.steps,
)
DDPM_SAMPLER = SamplerKind(further=TEACHER_SETTINGS, steps=250, least=lambda sampler: 2)
