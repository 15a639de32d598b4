"""Grids of generated images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


_BATCH = 64


_GAP = 2


_OWN = "its own classes"


@dataclass(frozen=True)
class Grid:
    """Images of one panel.

    Attributes:
        title: Heading.
        run: Row of the sample sheet.
        images: uint8 ``(rows·columns, C, H, W)`` in reading order.
        origins: Seed of each image, or its index in the data set.
        generated: Whether origins are seeds.
        classes: Class asked for (or of the real image); empty when unconditional.
        rule: How the classes (or real images) were chosen, in a few words.
        nfe: Network evaluations per image.
        sha256: Digest of the network file or of the data; empty where there is no such file.
    """

    title: str
    run: str
    images: torch.Tensor
    origins: tuple[int, ...]
    generated: bool
    classes: list[int]
    rule: str
    nfe: int | None
    sha256: str

    def caption(self) -> list[str]:
        """What was drawn, in two short lines."""
        digest = f"{'network' if self.generated else 'data'} {self.sha256[:8]}" if self.sha256 else ""
        if not self.generated:
            return [f"{len(self.origins)} real images", ", ".join(filter(None, [self.rule, digest]))]
        seeds = f"seeds {self.origins[0]}–{self.origins[-1]}"
        nfe = f"NFE {self.nfe}" if self.nfe else ""
        return [", ".join(filter(None, part)) for part in ([seeds, self.rule], [nfe, digest])]


def picture(grid: Grid, columns: int, upscale: int) -> np.ndarray:
    """One picture ``(H, W, 3)`` uint8 of a grid, nearest-neighbour upscaled, with gaps between the images."""
    from sida.sampling import tile

    images = grid.images.repeat_interleave(upscale, 2).repeat_interleave(upscale, 3)
    # White strokes on black need a gap that is neither.
    fill = (91, 127, 166) if images.shape[1] == 1 else (255, 255, 255)
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return tile(rgb, columns, _GAP * max(1, upscale // 4), fill).permute(1, 2, 0).numpy()
