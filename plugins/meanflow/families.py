"""Families of MeanFlow's networks, which predict a mean velocity: U-Nets and transformers."""

from sida.config.families import SD_LATENTS, Family

MEAN_FLOW = Family(
    name="mean-flow",
    title="MeanFlow",
    like="edm",
    classes=("MeanFlowPrecond", "SoFlowPrecond"),
    options={"dropout": 0.1, "label_dropout": 0.0},
)
MEAN_FLOW_DIT = Family(
    name="mean-flow-dit",
    title="MeanFlow transformer",
    like="edm",
    augmentation=False,
    latents=SD_LATENTS,
    classes=("MeanFlowDiT",),
    options={"label_dropout": 0.1},
)
