"""Draws grids of generated or real images, and writes one line of CSV per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.layout import SamplesLayout
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure


_GAP = 2
#: Rule of a grid whose classes the generator chose itself.
OWN_CLASSES = "its own classes"


@dataclass(frozen=True)
class Grid:
    """Images of one panel.

    Attributes:
        title: Heading.
        run: Row of the sample sheet.
        images: uint8 ``(rows·columns, C, H, W)`` in reading order.
        origins: Seed of each image, or index in the data set.
        generated: Whether ``origins`` are seeds.
        classes: Requested class of each image (of a real image its class); empty for unconditional generators.
        rule: How classes or real images were chosen, in a few words.
        nfe: Network evaluations per image.
        sha256: Digest of the network file or of the data; empty without a file.
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
        """Description of the grid in two short lines."""
        digest = f"{'network' if self.generated else 'data'} {self.sha256[:8]}" if self.sha256 else ""
        if not self.generated:
            return [f"{len(self.origins)} real images", ", ".join(filter(None, [self.rule, digest]))]
        seeds = f"seeds {self.origins[0]}–{self.origins[-1]}"
        nfe = f"NFE {self.nfe}" if self.nfe else ""
        return [", ".join(filter(None, part)) for part in ([seeds, self.rule], [nfe, digest])]


def picture(grid: Grid, columns: int, upscale: int) -> np.ndarray:
    """The picture of a grid, uint8 ``(H, W, 3)``: images upscaled by nearest neighbour, with gaps between them."""
    from sida.sampling import tile

    images = grid.images.repeat_interleave(upscale, 2).repeat_interleave(upscale, 3)
    # The gap is grey, since images may be white on black.
    fill = (91, 127, 166) if images.shape[1] == 1 else (255, 255, 255)
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return tile(rgb, columns, _GAP * max(1, upscale // 4), fill).permute(1, 2, 0).numpy()


def draw_grids(layout: SamplesLayout, grids: Sequence[Grid]) -> Figure:
    """Draws one titled picture per panel, with class numbers at the left of each row of panels."""
    pictures = [picture(grid, layout.columns, layout.upscale) for grid in grids]
    across = min(layout.panels_per_row, len(grids))
    down = -(-len(grids) // across)
    height, width = pictures[0].shape[:2]
    figure = style.new_figure(
        layout.width, down * (layout.width / across * height / width + (0.3 if across == 1 else 0.4)), pad=0.02
    )
    axes_grid = figure.subplots(down, across, squeeze=False)
    for axes, grid, image in zip(axes_grid.flat, grids, pictures):
        axes.imshow(image, interpolation="none")
        axes.set_title(style.literal(grid.title), fontsize=7, pad=3)
        # Panels side by side have room for two short lines each; a single panel takes one line.
        axes.set_xlabel((", " if across == 1 else "\n").join(grid.caption()), fontsize=5.5, labelpad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    by_row = next((grid.classes for grid in grids if grid.classes and grid.rule != OWN_CLASSES), None)
    if layout.by_class and by_row:
        _label_rows(layout, axes_grid[:, 0], by_row, pictures[0].shape[0])
    for axes in list(axes_grid.flat)[len(grids) :]:
        axes.set_axis_off()
    return figure


def _label_rows(layout: SamplesLayout, first_column: Any, classes: list[int], height: int) -> None:
    step = height / layout.rows
    shown = classes[:: layout.columns]
    names = [layout.class_names[c] if c < len(layout.class_names) else str(c) for c in shown]
    for axes in first_column:
        axes.set_yticks([step * (row + 0.5) for row in range(layout.rows)])
        axes.set_yticklabels([style.literal(name) for name in names])
        axes.tick_params(length=0, pad=2)


def samples_csv(layout: SamplesLayout, grids: Sequence[Grid]) -> str:
    """CSV of the grids: one line per image with position, seed (or index in the data) and digest of the generator."""
    columns = ["panel", "row", "column", "class", "seed", "data_index", "run", "nfe", "sha256"]
    rows: list[dict[str, Any]] = []
    for grid in grids:
        for i, origin in enumerate(grid.origins):
            seed, index = (origin, "") if grid.generated else ("", origin)
            row, column = divmod(i, layout.columns)
            label = grid.classes[i] if grid.classes else ""
            cells = [grid.title, row, column, label, seed, index, grid.run, grid.nfe or "", grid.sha256]
            rows.append(dict(zip(columns, cells, strict=True)))
    return csv_text(columns, rows)
