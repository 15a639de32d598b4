"""Colour changes of the augmentation, as one affine map of (R, G, B) per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from sida.config.augmentation import AugmentFlags
from sida.data.draws import DrawSource
from sida.runtime.devices import to_device

#: Number of label columns of each change, in order.
COLOUR_LABELS: Mapping[str, int] = {"brightness": 1, "contrast": 1, "lumaflip": 1, "hue": 2, "saturation": 1}
#: ``chosen(value, uniform, multiplier)`` keeps a change's parameter or sets it to 0 (no change).
Chosen = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def transform_colours(
    images: torch.Tensor, flags: AugmentFlags, chosen: Chosen, source: DrawSource, labels: list[torch.Tensor]
) -> torch.Tensor:
    """Applies colour changes and appends their label columns.

    Args:
        images: float32 ``(N, C, H, W)`` with 3 channels, or 1 (which takes the mean of the map over the colours).
        flags: Multipliers and strengths.
        chosen: See :data:`Chosen`.
        source: Source of the draws.
        labels: List to which one tensor per change is appended.

    Raises:
        ValueError: The images have another number of channels.
    """
    if not any(getattr(flags, name) > 0 for name in COLOUR_LABELS):
        return images
    count, channels = images.shape[:2]
    if channels not in (1, 3):
        raise ValueError(f"colour changes need 1 or 3 channels, got {channels}; leave their flags out")
    # Rows act on (r, g, b, 1): colour = matrix @ rgb + bias.
    matrix = torch.eye(3).expand(count, 3, 3)
    bias = torch.zeros(count, 3)
    grey = torch.full((3, 3), 1 / 3)  # projection on the luma axis (1, 1, 1)/√3
    colourful = torch.eye(3) - grey
    steps: list[torch.Tensor] = []
    if flags.brightness > 0:
        weight = chosen(source.randn(count), source.rand(count), flags.brightness)
        labels.append(weight)
        bias = bias.to(weight.device) + (weight * flags.brightness_std)[:, None]
    if flags.contrast > 0:
        weight = chosen(source.randn(count), source.rand(count), flags.contrast)
        labels.append(weight)
        steps.append(torch.exp2(weight * flags.contrast_std)[:, None, None] * torch.eye(3, device=weight.device))
    if flags.lumaflip > 0:
        flip = source.randint(2, count, 1, 1)
        flip = chosen(flip, source.rand(count, 1, 1), flags.lumaflip)
        labels.append(flip)
        steps.append(torch.eye(3, device=flip.device) - 2 * grey.to(flip.device) * flip)
    if flags.hue > 0:
        angle = (source.rand(count) * 2 - 1) * (math.pi * flags.hue_max)
        angle = chosen(angle, source.rand(count), flags.hue)
        labels.append(torch.stack([angle.cos() - 1, angle.sin()], 1))
        steps.append(_turn_about_luma(angle))
    if flags.saturation > 0:
        weight = chosen(source.randn(count, 1, 1), source.rand(count, 1, 1), flags.saturation)
        labels.append(weight)
        device = weight.device
        steps.append(grey.to(device) + colourful.to(device) * torch.exp2(weight * flags.saturation_std))
    for step in steps:
        matrix, bias = step @ matrix.to(step.device), (step @ bias.to(step.device)[:, :, None])[:, :, 0]
    matrix, bias = (to_device(x.to(images.dtype), images.device) for x in (matrix, bias))
    if channels == 1:
        return images * matrix.mean(1).sum(1)[:, None, None, None] + bias.mean(1)[:, None, None, None]
    return (matrix @ images.flatten(2) + bias[:, :, None]).reshape(images.shape)


def _turn_about_luma(angle: torch.Tensor) -> torch.Tensor:
    """Rotation matrices ``(N, 3, 3)`` about (1, 1, 1)/√3 by Rodrigues' formula."""
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    axis_product = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device)
    identity = torch.eye(3, device=angle.device)
    return cos * identity + sin * axis_product / math.sqrt(3) + (1 - cos) / 3
