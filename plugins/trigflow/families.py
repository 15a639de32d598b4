"""Families of TrigFlow's networks; this module does not import torch."""

import dataclasses

from sida.config.families import EDM, EDM2

# EpiGenomicsCode/edm2_sCM:generate_images.py draws in float32 without noise in unused steps, as EDM2.
#: DDPM++ with an angle for time.
TRIGFLOW = dataclasses.replace(
    EDM,
    name="trigflow",
    title="TrigFlow",
    like="edm",
    sampler_dtype="float32",
    noise_every_step=False,
    variance_head="logvar_channels",
    fp16=True,
    classes=("TrigFlowDDPMPPPrecond",),
)
#: EDM2's U-Net with an angle for time.
TRIGFLOW_EDM2 = dataclasses.replace(
    EDM2, name="trigflow-edm2", title="TrigFlow EDM2", like="edm2", classes=("TrigFlowPrecond",)
)
