"""Grids of samples: the same seeds for every generator, rows by class, beside real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.grids import _BATCH, _OWN, Grid, picture
from eval.figures.layout import SamplesLayout
from eval.figures.select import sample_panels
from eval.results.sheet import Run
from sida.config.mapping import load_spec
from sida.errors import UserError
from sida.files.atomic import write_text
from sida.files.content_hash import csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eval.measuring.sources import DataSource


def build_samples(
    layout: SamplesLayout, runs: Mapping[str, Run], spec: str | None, out: Path
) -> tuple[list[Path], list[str]]:
    """Samples every panel's generator and writes ``.pdf``, ``.png`` and ``.csv``.

    Args:
        layout: Panels, rows, columns and first seed.
        runs: The sample sheet.
        spec: JSON text or file ``{"generators": [...]}`` with specs of ``sida-eval measure``.
        out: The PDF's path.

    Returns:
        The written paths and what could not be shown yet.

    Raises:
        UserError: No spec, a panel without its run, or a network that is missing or broken.
    """
    if spec is None:
        raise UserError("--spec: sample grids need the generators' specs (JSON text or a file with key 'generators')")
    listed = load_spec(spec).get("generators")
    if not isinstance(listed, list):
        raise UserError("--spec: key 'generators' is missing; give a list of measure specs")
    generators = {str(generator.get("run")): generator for generator in listed}
    shown, missing = sample_panels(layout, runs)
    for _, run in shown:
        if run.run not in generators:
            raise UserError(f"{layout.source}: run '{run.run}' is not among the generators of --spec; add it")
    grids = [draw(layout, generators[run.run], panel.title or run.label) for panel, run in shown]
    if layout.neighbours is None:
        figure, listed_images = draw_grids(layout, grids), samples_csv(layout, grids)
    else:
        from eval.figures.neighbours import draw_neighbours

        figure, listed_images = draw_neighbours(layout, layout.neighbours, grids)
    write_text(out.with_suffix(".csv"), listed_images)
    return [*style.save(figure, out, layout.title), out.with_suffix(".csv")], missing


def draw(layout: SamplesLayout, generator: Mapping[str, Any], title: str) -> Grid:
    """The grid of one generator (see :class:`SamplesLayout` for seeds and classes).

    Networks are sampled, guided and decoded as for a measurement, so the image of a seed and class is the same.

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
    from sida.runtime.tf32 import tf32
    from sida.sampling import row_classes

    measurer = Measurer(generator, f"--spec: run '{generator.get('run')}'")
    source, spec = measurer.source, measurer.spec
    count = layout.rows * layout.columns
    seeds = range(layout.first_seed, layout.first_seed + count)
    # Not more than there are images: a batch that had to be filled up would cost as much as a full one.
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
            rule, digest = _OWN, ""
    nfe = source.drawer.nfe if isinstance(source, NetworkSource) else spec.nfe
    classes = [int(label) for batch in batches if batch.classes is not None for label in batch.classes]
    images = torch.cat([batch.images.cpu() for batch in batches])
    return Grid(title, spec.run, images, tuple(seeds), True, classes, rule if classes else "", nfe, digest)


def _real(layout: SamplesLayout, title: str, run: str, source: DataSource) -> Grid:
    """Real images: the first of each class in the data set's order, or evenly spaced without classes."""
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


def draw_grids(layout: SamplesLayout, grids: Sequence[Grid]) -> Figure:
    """The figure: one titled picture per panel, class numbers at the left of each row of panels."""
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
        # Side by side there is room for two short lines each; a grid of its own takes one.
        axes.set_xlabel((", " if across == 1 else "\n").join(grid.caption()), fontsize=5.5, labelpad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    by_row = next((grid.classes for grid in grids if grid.classes and grid.rule != _OWN), None)
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
    """One line per image: where it is, its seed (or index in the data) and its generator's digest."""
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
