"""Figures of samples: the same seeds from every generator, rows by class, beside real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sida.config.settings import Count
from sida.errors import UserError
from sida.eval.figures import style
from sida.eval.figures.layout import Drawing, FigureKind, Runs, Sources, check_pick
from sida.eval.results.conditions import Needs, Planned, matching
from sida.eval.results.csv_files import csv_text
from sida.eval.results.sheet import SheetRow

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from sida.eval.measuring.generators import DataSource


@dataclass(frozen=True)
class SamplesPanel:
    """A grid of images: real images, or images of one run of the sample sheet.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions; the first match in the sheet is taken, and without a match there is no panel.
        each: Conditions; each matching run gives one panel.
        title: Heading (default: the label in the sheet).
    """

    where: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None
    each: Mapping[str, Any] | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        check_pick(self, ("where", "first", "each"), "pick runs by one of where, first and each")


@dataclass(frozen=True, kw_only=True)
class SamplesFigure(FigureKind):
    """Grids of images of the same seeds.

    Attributes:
        rows: Rows of each grid.
        by_class: Row r shows class r modulo the number of classes; otherwise each seed draws its class uniformly, as
            ``sida sample`` does.
        class_names: Names of classes 0, 1, … beside the rows (default: the numbers).
        columns: Columns of each grid; the image in row r, column c has seed ``first_seed + r·columns + c``.
        upscale: Nearest-neighbour factor before embedding, so that small images stay crisp.
        panels_per_row: Grids side by side.
    """

    panels: tuple[SamplesPanel, ...]
    rows: Count = 10
    columns: Count = 6
    by_class: bool = True
    class_names: tuple[str, ...] = ()
    first_seed: int = 0
    upscale: Count = 8
    panels_per_row: Count = 5

    def panel_rows(self, panel: SamplesPanel, runs: Runs) -> list[SheetRow]:
        """Rows of the sheet that a panel shows."""
        rows = matching(runs, panel.where or panel.each or panel.first or {})
        return rows if panel.first is None else rows[:1]

    def grids(self, runs: Runs) -> list[tuple[SamplesPanel, SheetRow]]:
        """Each grid to draw with its run.

        Raises:
            UserError: ``where`` does not pick exactly one run, or nothing is left to draw.
        """
        panels: list[tuple[SamplesPanel, SheetRow]] = []
        for number, panel in enumerate(self.panels):
            rows = self.panel_rows(panel, runs)
            if panel.where is not None and len(rows) != 1:
                where = f"{self.source}: panels[{number}].where"
                raise UserError(where, f"{len(rows)} runs match {dict(panel.where)}", "it must pick exactly one")
            panels += [(panel, run) for run in rows]
        if not panels:
            raise UserError(self.source, "nothing to draw: none of its runs is in the sample sheet")
        return panels

    def needs(self, runs: Runs) -> Needs:
        """Needs the networks to sample."""
        rows = {run.run for panel in self.panels for run in self.panel_rows(panel, runs)}
        return Needs([], rows, sampled=True)

    def check(self, planned: Planned) -> None:
        """Refuses panels without exactly one row."""
        self.grids(planned.runs)

    def build(self, sources: Sources) -> Drawing:
        """Draws images of every panel's generator.

        Raises:
            UserError: No spec, a panel without its run, or a network that is missing or broken.
        """
        if sources.generators is None:
            raise UserError(
                "--spec", "sample grids need the generators' specs (JSON text or a file with key 'generators')"
            )
        if not isinstance(sources.generators, list) or not all(isinstance(one, dict) for one in sources.generators):
            raise UserError("--spec", "key 'generators' is missing or no list of specs", "give a list of measure specs")
        generators = {str(generator.get("run")): generator for generator in sources.generators}
        panels = self.grids(sources.runs)
        for _, run in panels:
            if run.run not in generators:
                raise UserError(self.source, f"run '{run.run}' is not among the generators of --spec", "add it")
        grids = [draw_grid(self, generators[run.run], panel.title or run.label) for panel, run in panels]
        return Drawing(draw_grids(self, grids), samples_csv(grids, self.columns))


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
        origins: Seed of each image, or index in the data set; None for an empty place.
        generated: Whether ``origins`` are seeds.
        classes: Requested class of each image (of a real image its class); empty for unconditional generators.
        rule: How classes or real images were chosen, in a few words.
        nfe: Network evaluations per image.
        sha256: Digest of the network file or of the data; empty without a file.
    """

    title: str
    run: str
    images: torch.Tensor
    origins: tuple[int | None, ...]
    generated: bool
    classes: list[int]
    rule: str
    nfe: int | None
    sha256: str

    def caption(self) -> list[str]:
        """Description of the grid in two short lines."""
        digest = f"{'network' if self.generated else 'data'} {self.sha256[:8]}" if self.sha256 else ""
        if not self.generated:
            return [
                f"{len(self.origins) - self.origins.count(None)} real images",
                ", ".join(filter(None, [self.rule, digest])),
            ]
        seeds = f"seeds {self.origins[0]}–{self.origins[-1]}"
        nfe = f"NFE {self.nfe}" if self.nfe else ""
        return [", ".join(filter(None, part)) for part in ([seeds, self.rule], [nfe, digest])]


def picture(grid: Grid, columns: int, upscale: int) -> np.ndarray:
    """The picture of a grid, uint8 ``(H, W, 3)``: images upscaled by nearest neighbour, with gaps between them."""
    from sida.sampling import tile

    images = grid.images.repeat_interleave(upscale, 2).repeat_interleave(upscale, 3)
    assert images.shape[1] in (1, 3)
    # The gap is grey, since images may be white on black.
    fill = (91, 127, 166) if images.shape[1] == 1 else (255, 255, 255)
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return tile(rgb, columns, _GAP * max(1, upscale // 4), fill).permute(1, 2, 0).numpy()


def draw_grids(layout: SamplesFigure, grids: Sequence[Grid]) -> Figure:
    """Draws one titled picture per panel, with class numbers at the left of each row of panels."""
    pictures = [picture(grid, layout.columns, layout.upscale) for grid in grids]
    across = min(layout.panels_per_row, len(grids))
    alone = across == 1
    # Panels side by side have room for two short lines each; a single panel takes one line.
    captions = [(", " if alone else "\n").join(grid.caption()) for grid in grids]
    down, (height, width) = -(-len(grids) // across), pictures[0].shape[:2]
    below = 0.3 if alone else 0.4  # inches of title and caption
    figure = style.new_figure(layout.width, down * (layout.width / across * height / width + below), pad=0.02)
    axes_grid = figure.subplots(down, across, squeeze=False)
    for axes in axes_grid.flat[len(grids) :]:
        axes.set_axis_off()
    for axes, grid, image, caption in zip(axes_grid.flat, grids, pictures, captions):
        axes.imshow(image, interpolation="none")
        axes.set_title(style.literal(grid.title), fontsize=7, pad=3)
        axes.set_xlabel(caption, fontsize=5.5, labelpad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    by_row = next((grid.classes for grid in grids if grid.classes and grid.rule != OWN_CLASSES), None)
    if layout.by_class and by_row:
        names = [layout.class_names[c] if c < len(layout.class_names) else str(c) for c in by_row[:: layout.columns]]
        step = pictures[0].shape[0] / layout.rows
        for axes in axes_grid[:, 0]:
            axes.set_yticks([step * (row + 0.5) for row in range(layout.rows)])
            axes.set_yticklabels([*map(style.literal, names)])
            axes.tick_params(length=0, pad=2)
    return figure


def samples_csv(grids: Sequence[Grid], columns: int) -> str:
    """CSV of the grids: one line per image with position, seed (or index in the data) and digest of the generator."""
    names = ("panel", "row", "column", "class", "seed", "data_index", "run", "nfe", "sha256")
    rows: list[dict[str, Any]] = []
    for grid in grids:
        for i, origin in enumerate(grid.origins):
            row, column = divmod(i, columns)
            image = {"panel": grid.title, "run": grid.run, "row": row, "column": column, "nfe": grid.nfe}
            image |= {"seed" if grid.generated else "data_index": origin, "sha256": grid.sha256}
            rows.append(image | {"class": grid.classes[i] if grid.classes else ""})
    return csv_text(names, rows)


_BATCH = 64


def draw_grid(layout: SamplesFigure, generator: Mapping[str, Any], title: str) -> Grid:
    """Draws the images of one generator's grid (:class:`SamplesFigure` describes seeds and classes).

    A seed and class give the same image as in a measurement: sampling, guidance and decoding are the same.

    Args:
        layout: Rows, columns, seeds and classes.
        generator: Spec of ``sida measure``.
        title: Heading of the grid.

    Raises:
        UserError: A bad spec, or a network that is missing or broken.
    """
    import torch

    from sida.eval.measuring.generators import DataSource, NetworkSource
    from sida.eval.measuring.measure import Measurer
    from sida.eval.measuring.trial import cpu_threads
    from sida.machine import tf32
    from sida.sampling import row_classes

    measurer = Measurer(generator, f"--spec: run '{generator.get('run')}'")
    source, spec = measurer.source, measurer.spec
    count = layout.rows * layout.columns
    seeds = range(layout.first_seed, layout.first_seed + count)
    # At most the number of images: a padded batch would cost as much as a full one.
    batch_size = min(_BATCH, measurer.batch_size, count)
    with cpu_threads(spec.threads), tf32(measurer.protocol.allow_tf32):
        if isinstance(source, DataSource):
            return _real_grid(layout, title, spec.run, source)
        if isinstance(source, NetworkSource):
            row_labels = row_classes(layout.rows, layout.columns, source.drawer.label_dim) if layout.by_class else []
            batches = list(source.stream(seeds.start, count, batch_size, row_labels or "uniform"))
            rule, digest = "class by row" if row_labels else "random classes", source.sha256
        else:
            batches = list(source.stream(seeds.start, count, batch_size))
            rule, digest = OWN_CLASSES, ""
    nfe = source.drawer.sampler.nfe if isinstance(source, NetworkSource) else spec.nfe
    classes = [int(label) for batch in batches if batch.classes is not None for label in batch.classes]
    images = torch.cat([batch.images.cpu() for batch in batches])
    assert len(images) == count
    return Grid(title, spec.run, images, tuple(seeds), True, classes, rule if classes else "", nfe, digest)


def _real_grid(layout: SamplesFigure, title: str, run: str, source: DataSource) -> Grid:
    """Grid of real images: the first ones of each class in the data set's order, or evenly spaced without classes."""
    import numpy as np

    from sida.sampling import SeedStreams, row_classes
    from sida.sampling.generate import real_images

    dataset, count = source.dataset, layout.rows * layout.columns
    classes = row_classes(layout.rows, layout.columns, dataset.label_dim) if layout.by_class else []
    if classes:
        members = [np.flatnonzero(dataset.class_indices.numpy() == label) for label in range(dataset.label_dim)]
        indices: list[int | None] = []
        for i, label in enumerate(classes):
            # A class returns after label_dim rows, and then shows its next images.
            nth = i // (layout.columns * dataset.label_dim) * layout.columns + i % layout.columns
            # The places of a class without images stay empty: after the trainings is too late for an error.
            indices.append(int(members[label][nth % len(members[label])]) if len(members[label]) else None)
        rule = "first of each class"
    else:
        spaced = [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
        classes = [int(dataset.class_indices[i]) for i in spaced] if dataset.label_dim else []
        rule, indices = "evenly spaced", [*spaced]
    there = [i for i in indices if i is not None]
    real = real_images(dataset, there, SeedStreams(there), source.drawer.decode)
    assert len(real) == len(there)
    images = real.new_zeros(count, *real.shape[1:])
    images[[position for position, i in enumerate(indices) if i is not None]] = real
    return Grid(title, run, images, tuple(indices), False, classes, rule, None, dataset.sha256)
