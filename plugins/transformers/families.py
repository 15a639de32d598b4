"""Families of the transformers; this module does not import torch."""

import dataclasses

from sida.config.families import SD_LATENTS, Family

#: Transformers that predict a velocity on straight paths: SiT's and REPA's.
FLOW = Family(
    name="flow",
    title="Flow",
    like="edm",
    augmentation=False,
    latents=SD_LATENTS,
    classes=("SiTPrecond", "REPAPrecond"),
    options={"label_dropout": 0.1},
)
#: DiT's transformers, which predict noise on 1,000 steps.
DIT = dataclasses.replace(FLOW, name="dit", title="DiT", classes=("DiTPrecond",))
