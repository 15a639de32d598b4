"""Generated images with their nearest training image and their nearest held-out image below.

A copy equals the image below it. A new image is about as far from its nearest training image as from its nearest
held-out image, except that there are more training images.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.grids import Grid, picture
from eval.figures.layout import NeighboursSpec, SamplesLayout
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from eval.features.base import Extractor
    from sida.data import Dataset

_SPACE = 2  # gap between blocks of lines, in pixels of the images


@dataclasses.dataclass(frozen=True)
class Near:
    """Nearest images of a data set, one for each image of a grid.

    Attributes:
        images: uint8 ``(N, C, H, W)``.
        indices: Indices in the data set.
        distances: Distances in units of the features.
    """

    images: torch.Tensor
    indices: list[int]
    distances: list[float]


def draw_neighbours(layout: SamplesLayout, spec: NeighboursSpec, grids: Sequence[Grid]) -> tuple[Figure, str]:
    """Draws the figure; returns it with one line of CSV per image.

    Args:
        layout: Rows, columns and size.
        spec: Data sets and feature network.
        grids: Images of each panel.

    Raises:
        UserError: No such data set or extractor, or images of another size.
    """
    from eval.features import get_extractor
    from sida.config.datasets import dataset_spec
    from sida.data import load_dataset

    extractor = get_extractor(spec.extractor)
    found: dict[str, list[Near]] = {}
    for key in ("training", "held_out"):
        where = f"{layout.source}: neighbours.{key}"
        found[key] = _nearest(extractor, load_dataset(dataset_spec(getattr(spec, key), where), where), grids)
    return _figure(layout, grids, found), _csv(grids, found)


def _nearest(extractor: Extractor, dataset: Dataset, grids: Sequence[Grid]) -> list[Near]:
    from eval.memorisation import nearest

    real = extractor(dataset.images(range(len(dataset))))
    results = []
    for grid in grids:
        distances, indices = nearest(extractor(grid.images), real)
        chosen = indices.tolist()
        results.append(Near(dataset.images(chosen), chosen, distances.tolist()))
    return results


def _figure(layout: SamplesLayout, grids: Sequence[Grid], found: dict[str, list[Near]]) -> Figure:
    across = min(layout.panels_per_row, len(grids))
    down = -(-len(grids) // across)
    pictures = [_picture(layout, *parts) for parts in zip(grids, found["training"], found["held_out"])]
    height, width = pictures[0].shape[:2]
    # The names of the lines are at the left of the first panels.
    figure = style.new_figure(layout.width, down * ((layout.width - 0.9) / across * height / width + 0.42), pad=0.02)
    axes_grid = figure.subplots(down, across, squeeze=False)
    for axes, grid, image, train, fresh in zip(axes_grid.flat, grids, pictures, found["training"], found["held_out"]):
        axes.imshow(image, interpolation="none")
        axes.set_title(style.literal(grid.title), fontsize=7, pad=3)
        medians = [statistics.median(near.distances) for near in (train, fresh)]
        axes.set_xlabel("median distance {:.2f} and {:.2f}".format(*medians), fontsize=6, labelpad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    for row, first in enumerate(axes_grid[:, 0]):
        kinds = {grid.generated for grid in grids[row * across : (row + 1) * across]}
        above = "image" if len(kinds) > 1 else "generated" if kinds == {True} else "real"
        _name_lines(first, height, layout, [above, "nearest training", "nearest held-out"])
    for axes in list(axes_grid.flat)[len(grids) :]:
        axes.set_axis_off()
    return figure


def _picture(layout: SamplesLayout, grid: Grid, train: Near, fresh: Near) -> np.ndarray:
    """Picture of a panel: blocks of three lines, with white between the blocks."""
    import numpy as np
    import torch

    blocks: list[np.ndarray] = []
    for column in range(layout.columns):
        # Every `columns`-th image: one of each row of the grid, which is one of each class.
        parts = torch.cat([part[column :: layout.columns] for part in (grid.images, train.images, fresh.images)])
        block = picture(dataclasses.replace(grid, images=parts), layout.rows, layout.upscale)
        space = np.full((_SPACE * layout.upscale, *block.shape[1:]), 255, block.dtype)
        blocks += [space, block] if blocks else [block]
    return np.concatenate(blocks)


def _name_lines(axes: Any, height: int, layout: SamplesLayout, names: Sequence[str]) -> None:
    space = _SPACE * layout.upscale
    block = (height + space) / layout.columns - space
    places = [(column, line) for column in range(layout.columns) for line in range(len(names))]
    axes.set_yticks([column * (block + space) + block / len(names) * (line + 0.5) for column, line in places])
    axes.set_yticklabels([names[line] for _, line in places], fontsize=6)
    axes.tick_params(length=0, pad=2)


def _csv(grids: Sequence[Grid], found: dict[str, list[Near]]) -> str:
    rows: list[list[Any]] = []
    head = ["panel", "run", "class", "seed", "data_index", "sha256"]
    near_head = [f"{key}_{column}" for key in found for column in ("index", "distance")]
    for number, grid in enumerate(grids):
        for i, origin in enumerate(grid.origins):
            seed, index = (origin, "") if grid.generated else ("", origin)
            label = grid.classes[i] if grid.classes else ""
            near = [
                value for key in found for value in (found[key][number].indices[i], found[key][number].distances[i])
            ]
            rows.append([grid.title, grid.run, label, seed, index, grid.sha256, *near])
    columns = [*head, *near_head]
    return csv_text(columns, (dict(zip(columns, row, strict=True)) for row in rows))
