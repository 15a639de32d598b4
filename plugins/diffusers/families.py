"""Family of diffusers' U-Nets; this module does not import torch."""

from sida.config.families import Family

#: Their images are pixels whatever their channels.
DIFFUSERS = Family(
    name="diffusers",
    title="diffusers",
    like="edm",
    augmentation=False,
    latents=None,
    classes=("DiffusersPrecond",),
    options={"dropout": 0.0, "null_label": False},
)
