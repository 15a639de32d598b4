"""Builds figures of samples: the same seeds from every generator, rows by class, beside real images.

Draws grids of generated or real images, and writes one line of CSV per image.

Generated images with their nearest training image and their nearest held-out image below.

A copy equals the image below it. A new image is about as far from its nearest training image as from its nearest
held-out image, except that there are more training images.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.layout import Drawing, NeighboursSpec, SamplesLayout
from eval.figures.sources import Sources
from sida.errors import UserError
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from eval.features.base import Extractor
    from eval.measuring.sources import DataSource
    from sida.data import Dataset


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


_BATCH = 64


def build_samples(layout: SamplesLayout, sources: Sources) -> Drawing:
    """Draws images of every panel's generator.

    Raises:
        UserError: No spec, a panel without its run, or a network that is missing or broken.
    """
    if sources.generators is None:
        raise UserError("--spec", "sample grids need the generators' specs (JSON text or a file with key 'generators')")
    if not isinstance(sources.generators, list):
        raise UserError("--spec", "key 'generators' is missing", "give a list of measure specs")
    generators = {str(generator.get("run")): generator for generator in sources.generators}
    shown, missing = layout.grids(sources.runs)
    for _, run in shown:
        if run.run not in generators:
            raise UserError(layout.source, f"run '{run.run}' is not among the generators of --spec", "add it")
    grids = [draw_grid(layout, generators[run.run], panel.title or run.label) for panel, run in shown]
    if layout.neighbours is None:
        return Drawing(draw_grids(layout, grids), samples_csv(layout, grids), missing)
    return Drawing(*draw_neighbours(layout, layout.neighbours, grids), missing)


def draw_grid(layout: SamplesLayout, generator: Mapping[str, Any], title: str) -> Grid:
    """Draws the images of one generator's grid (:class:`SamplesLayout` describes seeds and classes).

    Sampling, guidance and decoding are those of a measurement, so a seed and class give the same image.

    Args:
        layout: Rows, columns, seeds and classes.
        generator: Spec of ``sida-eval measure``.
        title: Heading of the grid.

    Raises:
        UserError: A bad spec, or a network that is missing or broken.
    """
    import torch

    from eval.measuring.measure import Measurer, threads
    from eval.measuring.sources import DataSource, NetworkSource
    from sida.runtime.devices import tf32
    from sida.sampling import row_classes

    measurer = Measurer(generator, f"--spec: run '{generator.get('run')}'")
    source, spec = measurer.source, measurer.spec
    count = layout.rows * layout.columns
    seeds = range(layout.first_seed, layout.first_seed + count)
    # At most the number of images: a padded batch would cost as much as a full one.
    batch_size = min(_BATCH, measurer.batch_size, count)
    with threads(spec.threads), tf32(measurer.protocol.allow_tf32):
        if isinstance(source, DataSource):
            return _real(layout, title, spec.run, source)
        if isinstance(source, NetworkSource):
            asked = row_classes(layout.rows, layout.columns, source.drawer.label_dim) if layout.by_class else []
            batches = list(source.batches(seeds, batch_size, asked or "uniform"))
            rule, digest = "class by row" if asked else "random classes", source.sha256
        else:
            batches = list(source.batches(seeds, batch_size))
            rule, digest = OWN_CLASSES, ""
    nfe = source.drawer.nfe if isinstance(source, NetworkSource) else spec.nfe
    classes = [int(label) for batch in batches if batch.classes is not None for label in batch.classes]
    images = torch.cat([batch.images.cpu() for batch in batches])
    return Grid(title, spec.run, images, tuple(seeds), True, classes, rule if classes else "", nfe, digest)


def _real(layout: SamplesLayout, title: str, run: str, source: DataSource) -> Grid:
    """Grid of real images: the first ones of each class in the data set's order, or evenly spaced without classes."""
    import numpy as np

    from sida.sampling import row_classes

    dataset = source.dataset
    count = layout.rows * layout.columns
    indices = [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
    classes = row_classes(layout.rows, layout.columns, dataset.label_dim) if layout.by_class else []
    if classes:
        members = [np.flatnonzero(dataset.class_indices.numpy() == label) for label in range(dataset.label_dim)]
        for i, label in enumerate(classes):
            nth = i // (layout.columns * dataset.label_dim) * layout.columns + i % layout.columns
            indices[i] = int(members[label][nth % len(members[label])])
        rule = "first of each class"
    else:
        classes = [int(dataset.class_indices[i]) for i in indices] if dataset.label_dim else []
        rule = "evenly spaced"
    images = source.drawer.real(indices)
    return Grid(title, run, images, tuple(indices), False, classes, rule, None, dataset.sha256)


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
