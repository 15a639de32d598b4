"""Pictures of a run's average beside its snapshots, always of the same seeds."""

from __future__ import annotations

from pathlib import Path

import torch

from sida.config.samplers import Sampler
from sida.sampling import Drawer
from sida.sampling.grid import save_grid

#: Rows and columns where nobody says how many.
SIDE = 8
_BATCH = 64


class Pictures:
    """Draws a square grid: row r shows class r (modulo their number), columns other seeds.

    Args:
        sampler: How the network draws.
        side: Rows and columns; None takes 8, and 0 of what is no picture without more: latents, other channels.
        device: Where latents are decoded.
    """

    def __init__(self, sampler: Sampler, side: int | None, device: str) -> None:
        self.drawer, self.side = Drawer(sampler, device=device), side

    def __call__(self, net: torch.nn.Module, path: Path) -> None:
        """Writes the picture of a network as PNG, if there is to be one; a decoder is opened once."""
        self.drawer.net = net
        side = self.side
        if side is None:
            side = SIDE if net.img_channels in (1, 3) and not self.drawer.draws_latents else 0
        if side:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_grid(path, self.drawer.grid(side, side, 0, _BATCH), side)
