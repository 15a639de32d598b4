"""Builds figures of samples: the same seeds from every generator, rows by class, beside real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eval.figures.grids import OWN_CLASSES, Grid, draw_grids, samples_csv
from eval.figures.kind import Drawing
from eval.figures.layout import SamplesLayout
from eval.figures.sources import Sources
from sida.errors import UserError

if TYPE_CHECKING:
    from eval.measuring.sources import DataSource

_BATCH = 64


def build_samples(layout: SamplesLayout, sources: Sources) -> Drawing:
    """Draws images of every panel's generator.

    Raises:
        UserError: No spec, a panel without its run, or a network that is missing or broken.
    """
    if sources.generators is None:
        raise UserError("--spec: sample grids need the generators' specs (JSON text or a file with key 'generators')")
    if not isinstance(sources.generators, list):
        raise UserError("--spec: key 'generators' is missing; give a list of measure specs")
    generators = {str(generator.get("run")): generator for generator in sources.generators}
    shown, missing = layout.grids(sources.runs)
    for _, run in shown:
        if run.run not in generators:
            raise UserError(f"{layout.source}: run '{run.run}' is not among the generators of --spec; add it")
    grids = [draw_grid(layout, generators[run.run], panel.title or run.label) for panel, run in shown]
    if layout.neighbours is None:
        return Drawing(draw_grids(layout, grids), samples_csv(layout, grids), missing)
    from eval.figures.neighbours import draw_neighbours

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
