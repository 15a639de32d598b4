"""Profiles of a network's residual blocks: change of the output without a block, by noise level.

    change(b, σ) = E‖F_b(y + σ n; σ) − F(y + σ n; σ)‖² / E‖F(y + σ n; σ)‖²

F is the raw output of the U-Net. In F_b the residual branches of block b are zero, so that its shortcut alone is left.
Images y and noise n are equal for all blocks and noise levels. The denoiser D = c_skip x + c_out F would hide the
layers: at low noise D tends to its input x, while EDM's preconditioning gives the target of F unit variance at every
noise level.

A block's profile may vary with the noise by the form of the network alone, so that files of teachers also have the
profile of the same network before any training.

A student is trained at σ_init with latents alone, so its profile is of σ_init, with y = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from eval.results.selection import StudiedRows
from sida.config.ranges import Count, Positive, Range

#: Column of noise levels in the file of a profile; the other columns are the changes by block.
SIGMA = "sigma"
#: Start of the columns of the network before any training.
UNTRAINED = "untrained "


@dataclass(frozen=True, kw_only=True)
class ProfileSize:
    """Noise levels and number of images of a profile.

    Attributes:
        sigma_min: Lowest noise level σ of a teacher.
        sigma_max: Highest noise level σ of a teacher; the network's own range limits both.
        levels: Number of noise levels, in equal steps of ln σ.
        num_images: Number of data images in one repeat, drawn with replacement; one batch.
        repeats: Number of repeats, each with other images and noise, for the sampling error.
    """

    sigma_min: Positive = 0.02
    sigma_max: Positive = 80.0
    levels: Annotated[int, Range(least=2, most=100)] = 8
    num_images: Count = 250
    repeats: Annotated[int, Range(least=4, most=1000)] = 8


@dataclass(frozen=True, kw_only=True)
class LayerSettings(ProfileSize, StudiedRows):
    """Settings of profiles: the networks, noise levels and images.

    Attributes:
        where: Conditions on the sample sheet: teachers, and students trained here.
    """


def profiles(curves: Mapping[str, Sequence[float]], untrained: bool = False) -> dict[str, dict[float, list[float]]]:
    """Changes of the repeats by noise level, by block, from the columns of a file.

    Args:
        curves: Columns of the file.
        untrained: Whether to give those of the network before any training; empty if the file has none.
    """
    start = UNTRAINED if untrained else ""
    chosen = {name: values for name, values in curves.items() if name.startswith(UNTRAINED) == untrained}
    found: dict[str, dict[float, list[float]]] = {}
    for name, values in chosen.items():
        if name != SIGMA:
            levels = found.setdefault(name.removeprefix(start), {})
            for sigma, change in zip(curves[SIGMA], values):
                levels.setdefault(sigma, []).append(change)
    return found
