"""Frozen feature networks of GDD's discriminator (:mod:`sida.discriminator`), named without importing torch."""

from __future__ import annotations

#: Networks, and the asset with the weights of each (None: in the package).
BACKBONES: dict[str, str | None] = {
    "vgg16_bn": "backbone-vgg16-bn",
    "efficientnet_lite0": "backbone-efficientnet-lite0",
    "deit_base_distilled": "backbone-deit-base-distilled",
    "digits": None,
}
#: Official pairs: up to 32×32 pixels, and above.
SMALL, LARGE = ("vgg16_bn", "efficientnet_lite0"), ("deit_base_distilled", "efficientnet_lite0")


def official_backbones(resolution: int) -> tuple[str, ...]:
    """The official pair for images of a size (Zyriix/GDD:train.sh)."""
    return SMALL if resolution <= 32 else LARGE
