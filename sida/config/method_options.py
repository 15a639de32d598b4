"""Settings of single methods: ``options`` of a recipe. This module does not import torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sida.config.mapping import Settings
from sida.config.ranges import Count, NotNegative, OneOf, Positive, Range

#: Frozen feature networks of the discriminator, and the asset with the weights of each (None: in the package).
BACKBONES: dict[str, str | None] = {
    "vgg16_bn": "backbone-vgg16-bn",
    "efficientnet_lite0": "backbone-efficientnet-lite0",
    "deit_base_distilled": "backbone-deit-base-distilled",
    "digits": None,
}
#: Official pairs: up to 32×32 pixels, and above.
SMALL, LARGE = ("vgg16_bn", "efficientnet_lite0"), ("deit_base_distilled", "efficientnet_lite0")
BackboneName = Annotated[str, OneOf(BACKBONES.keys)]
Sign = Annotated[float, Range(least=-1, most=1)]


def official_backbones(resolution: int) -> tuple[str, ...]:
    """The official pair for images of a size (Zyriix/GDD:train.sh)."""
    return SMALL if resolution <= 32 else LARGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class GDDOptions(Settings):
    """Settings of GDD's discriminator and its training; defaults are the official values.

    Attributes:
        backbones: Frozen feature networks; null takes VGG16-BN and EfficientNet-lite0 up to 32×32 pixels, DeiT-base
            (distilled) and EfficientNet-lite0 above.
        weights: ``published`` (trained on ImageNet; downloaded), or ``random`` for trying out.
        form: ``ns`` (non-saturating) or ``hinge``.
        r1_gamma: γ of the R1 penalty on real images; 0 leaves it out.
        r1_interval: Iterations between two penalties; each counts this many times.
        loss_images: Factor on the adversarial terms, not on R1. The official code sums over the images of a device, 64,
            instead of averaging.
        diffaug: Differentiable augmentation of the backbones' input: colour, translation, cutout.
        ada_target: Adaptive augmentation: target for the mean sign of the logits of real images. The probability
            starts at ``augment.p`` of the recipe and follows the target; null is off.
        ada_interval: Iterations between two changes of the probability.
        ada_kimg: Thousands of images in which p can change by 1 at most.
    """

    backbones: tuple[BackboneName, ...] | None = None
    weights: Literal["published", "random"] = "published"
    form: Literal["ns", "hinge"] = "ns"
    r1_gamma: NotNegative = 1e-4
    r1_interval: Count = 16
    loss_images: Positive = 64.0
    diffaug: bool = False
    ada_target: Sign | None = None
    ada_interval: Count = 4
    ada_kimg: Positive = 500.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbones is not None and not self.backbones:
            raise ValueError("backbones: must name at least one; null takes the official ones")

    @staticmethod
    def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they enter a run's digest; without the key it is that of the discriminator before 2026-11-22."""
        return {**given, "former": False}

    def assets(self, resolution: int) -> list[str]:
        """Registered downloads of a training on images of a size."""
        if self.weights == "random":
            return []
        named = (BACKBONES[name] for name in self.backbones or official_backbones(resolution))
        return [asset for asset in named if asset]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceOptions(Settings):
    """Settings of the teacher's images that the generator imitates.

    Attributes:
        num_steps: Steps of Heun's deterministic method, from the σ_max of EDM's sampler; 2n − 1 evaluations of the
            teacher for each training image.
    """

    num_steps: Annotated[int, Range(least=2)] = 18
