"""Discriminators: GDD's heads on mixed features of frozen networks, and heads on the encoder of a diffusion network."""

from sida.discriminator.backbones import Backbone, make_backbone
from sida.discriminator.projected import AdaptiveAugment, ProjectedDiscriminator

__all__ = ["AdaptiveAugment", "Backbone", "ProjectedDiscriminator", "make_backbone"]
