"""GDD's discriminator: heads of several scales that learn, on mixed features of frozen networks."""

from sida.discriminator.augment import AdaptiveAugment
from sida.discriminator.backbones import Backbone, make_backbone
from sida.discriminator.projected import ProjectedDiscriminator

__all__ = ["AdaptiveAugment", "Backbone", "ProjectedDiscriminator", "make_backbone"]
