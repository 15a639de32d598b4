"""Settings of augmentation: transformations with their probabilities and strengths.

:class:`sida.data.AugmentPipe` applies them. This module does not import torch, for presets and recipes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from sida.config.settings import CheckedAs, Fraction, NotNegative, Settings

#: Flags of EDM, SiD and SiDA. Flips always have probability 1/2: otherwise their label could not be learnt.
OFFICIAL_FLAGS: Mapping[str, float] = {
    "xflip": 1e8,
    "yflip": 1,
    "scale": 1,
    "rotate_frac": 1,
    "aniso": 1,
    "translate_frac": 1,
}

#: Flags of GDD's discriminator (Zyriix/GDD:train.py), whose augmentation has no labels.
GDD_FLAGS: Mapping[str, float] = dict.fromkeys(
    (
        "xflip", "rotate_int", "translate_int", "scale", "rotate_frac", "aniso", "translate_frac",
        "brightness", "contrast", "lumaflip", "hue", "saturation",
    ), 1,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentFlags(Settings):
    """Multipliers of the transformations' probability, and their strengths.

    Attributes:
        xflip, yflip, rotate_int, translate_int: Multipliers of exact pixel moves.
        scale, rotate_frac, aniso, translate_frac: Multipliers of filtered geometric warps.
        brightness, contrast, lumaflip, hue, saturation: Multipliers of colour changes (1 or 3 channels).
        translate_int_max: Largest move, share of the image.
        scale_std: Standard deviation of log2 of the scale.
        rotate_frac_max: Largest rotation, 1 = half a turn.
        aniso_std: Standard deviation of log2 of the stretch.
        aniso_rotate_prob: Probability that the stretch is along a random direction.
        translate_frac_std: Standard deviation of the move, share of the image.
        brightness_std, contrast_std, hue_max, saturation_std: Strength of colour changes.
    """

    xflip: NotNegative = 0.0
    yflip: NotNegative = 0.0
    rotate_int: NotNegative = 0.0
    translate_int: NotNegative = 0.0
    scale: NotNegative = 0.0
    rotate_frac: NotNegative = 0.0
    aniso: NotNegative = 0.0
    translate_frac: NotNegative = 0.0
    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    lumaflip: NotNegative = 0.0
    hue: NotNegative = 0.0
    saturation: NotNegative = 0.0
    translate_int_max: NotNegative = 0.125
    scale_std: NotNegative = 0.2
    rotate_frac_max: NotNegative = 1.0
    aniso_std: NotNegative = 0.2
    aniso_rotate_prob: Fraction = 0.5
    translate_frac_std: NotNegative = 0.125
    brightness_std: NotNegative = 0.2
    contrast_std: NotNegative = 0.5
    hue_max: NotNegative = 1.0
    saturation_std: NotNegative = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of a training.

    Attributes:
        p: Probability of each transformation before its multiplier; 0.12 (CIFAR-10) and 0.15 (FFHQ, AFHQv2) in EDM.
        flags: Multipliers by transformation, and their strengths; null takes the official set: only warps for EDM, SiD
            and SiDA; warps and colours for GDD.
    """

    p: Fraction
    flags: Annotated[dict[str, Any], CheckedAs(AugmentFlags)] | None = None
