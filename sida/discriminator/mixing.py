"""Random, frozen mixing of a backbone's maps, across channels and then across scales."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class Mixing(nn.Module):
    """Mixes each map's channels at random, adds all coarser maps, and doubles the size.

    Args:
        channels: Channels of the maps, finest first.
        width: Channels of the first mixed map.

    Attributes:
        channels: Channels of the mixed maps: ``width``, ``width``, ``2 width``, ``4 width``, ...

    Source: projected GANs (arXiv:2111.01007), section 3.2; autonomousvision/stylegan-xl:pg_modules/projector.py.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        inner = [width << level for level in range(len(channels))]
        self.channels = [width, *inner[:-1]]
        self.across_channels = nn.ModuleList(nn.Conv2d(old, new, 1) for old, new in zip(channels, inner))
        self.across_scales = nn.ModuleList(nn.Conv2d(old, new, 1) for old, new in zip(inner, self.channels))
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mixed maps, finest first; maps ``(N, C, h, w)`` halve in size from one to the next."""
        mixed: list[Tensor] = []
        for x, channels, scales in reversed(list(zip(maps, self.across_channels, self.across_scales))):
            x = channels(x)
            if mixed:
                x = x + mixed[-1]
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            mixed.append(scales(x))
        return mixed[::-1]
