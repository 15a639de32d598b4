"""Grids of samples: the same seeds for every generator, rows by class, beside real images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.figures import style
from eval.figures.layout import SamplesLayout, SamplesPanel
from eval.tables.layout import matching
from sida.config import load_spec
from sida.errors import UserError
from sida.io import sha256_file, write_text
from sida.preset import Run

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

_BATCH = 64


@dataclass(frozen=True)
class Grid:
    """Images of one panel.

    Attributes:
        images: uint8 ``(rows·columns, C, H, W)`` in reading order.
        origins: Seed of each image, or its index in the data set.
        classes: Class asked for (or of the real image); ``None`` when unconditional.
    """

    title: str
    run: str
    images: np.ndarray
    origins: tuple[int, ...]
    classes: tuple[int | None, ...]
    nfe: int | None
    network_sha256: str


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
    grids, missing = [], []
    for number, panel in enumerate(layout.panels):
        where = f"{layout.source}: panels[{number}].where"
        run = _pick(layout, panel, runs, generators, where)
        if run is None:
            missing.append(panel.title or f"{where} {dict(panel.where)}")
        else:
            grids.append(_grid(layout, panel, run, generators[run.run]))
    if not grids:
        raise UserError(f"{layout.source}: nothing to draw: none of its runs is in the sample sheet")
    figure = draw_grids(layout, grids)
    write_text(out.with_suffix(".csv"), samples_csv(layout, grids))
    return [*style.save(figure, out, layout.title), out.with_suffix(".csv")], missing


def _pick(
    layout: SamplesLayout, panel: SamplesPanel, runs: Mapping[str, Run], generators: Mapping[str, Any], where: str
) -> Run | None:
    found = matching(runs, {**(layout.scope or {}), **panel.where})
    if len(found) != 1:
        if not found and panel.optional:
            return None
        raise UserError(f"{where}: {len(found)} runs match {dict(panel.where)}; it must pick exactly one")
    if found[0].run not in generators:
        raise UserError(f"{where}: run '{found[0].run}' is not among the generators of --spec; add it")
    return found[0]


def _grid(layout: SamplesLayout, panel: SamplesPanel, run: Run, generator: Mapping[str, Any]) -> Grid:
    title = panel.title or run.label
    if generator["sampler"]["kind"] == "data":
        return _real(layout, title, run, generator)
    images, classes, seeds = generate(layout, generator)
    digest = sha256_file(generator["network"])
    return Grid(title, run.run, images, seeds, classes, generator.get("nfe"), digest)


def generate(
    layout: SamplesLayout, generator: Mapping[str, Any]
) -> tuple[np.ndarray, tuple[int | None, ...], tuple[int, ...]]:
    """Images, classes and seeds of a generator's grid (see :class:`SamplesLayout` for the order).

    Raises:
        UserError: The network file is missing or broken, or the sampler is unknown.
    """
    import numpy as np
    import torch

    from sida.checkpoint import load_network
    from sida.sampling import SeedStreams, heun, latents_for_seeds, one_step, to_uint8

    torch.set_num_threads(int(generator.get("threads", 1)))
    net: Any
    net, _ = load_network(generator["network"], device=generator.get("device", "cpu"))
    count = layout.rows * layout.columns
    seeds = tuple(range(layout.first_seed, layout.first_seed + count))
    label_dim, channels, size = int(net.label_dim), int(net.img_channels), int(net.img_resolution)
    classes: list[int | None] = [(i // layout.columns) % label_dim if label_dim else None for i in range(count)]
    if label_dim and not layout.by_class:
        classes = [seed % label_dim for seed in seeds]
    options = {key: value for key, value in generator["sampler"].items() if key != "kind"}
    kind = generator["sampler"]["kind"]
    parts = []
    with torch.no_grad():
        for start in range(0, count, _BATCH):
            batch = seeds[start : start + _BATCH]
            z = latents_for_seeds(batch, (channels, size, size)).to(generator.get("device", "cpu"))
            labels = None
            if label_dim:
                picked = torch.tensor([int(c or 0) for c in classes[start : start + _BATCH]], device=z.device)
                labels = torch.nn.functional.one_hot(picked, label_dim).float()
            if kind == "one_step":
                images = one_step(net, z, labels, **options)
            elif kind == "heun":
                images = heun(net, z, labels, noise=SeedStreams(batch).randn_like, **options)
            else:
                raise UserError(f"run '{generator['run']}': no sampler of kind '{kind}' for sample grids")
            parts.append(to_uint8(images).cpu().numpy())
    return np.concatenate(parts), tuple(classes), seeds


def _real(layout: SamplesLayout, title: str, run: Run, generator: Mapping[str, Any]) -> Grid:
    """Real images: the first of each class in the data set's order, or evenly spaced without classes."""
    import numpy as np

    from sida.data import load_dataset

    dataset = load_dataset(generator["dataset"])
    count = layout.rows * layout.columns
    classes: list[int | None] = [None] * count
    indices = [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
    if layout.by_class and dataset.label_dim:
        of_class = dataset.class_indices.numpy()
        members = [np.flatnonzero(of_class == label) for label in range(dataset.label_dim)]
        for i in range(count):
            turn, label = divmod(i // layout.columns, dataset.label_dim)
            nth = turn * layout.columns + i % layout.columns
            indices[i] = int(members[label][nth % len(members[label])])
            classes[i] = label
    elif dataset.label_dim:
        classes = [int(dataset.class_indices[i]) for i in indices]
    images = dataset.images(indices).numpy()
    return Grid(title, run.run, images, tuple(indices), tuple(classes), None, dataset.sha256)


def tile(images: np.ndarray, columns: int, upscale: int, gap: int = 2) -> np.ndarray:
    """One picture ``(H, W, 3)`` uint8 of images ``(N, C, h, w)``, nearest-neighbour upscaled, gaps between."""
    import numpy as np

    count, channels, height, width = images.shape
    rows = -(-count // columns)
    cell = np.repeat(np.repeat(images, upscale, axis=2), upscale, axis=3).transpose(0, 2, 3, 1)
    cell = np.repeat(cell, 3, axis=3) if channels == 1 else cell[..., :3]
    space = gap * max(1, upscale // 4)
    high, wide = height * upscale + space, width * upscale + space
    # White strokes on black need a gap that is neither.
    colour = (91, 127, 166) if channels == 1 else (255, 255, 255)
    picture = np.full((rows * high - space, columns * wide - space, 3), colour, np.uint8)
    for i in range(count):
        top, left = (i // columns) * high, (i % columns) * wide
        picture[top : top + high - space, left : left + wide - space] = cell[i]
    return picture


def draw_grids(layout: SamplesLayout, grids: Sequence[Grid]) -> Figure:
    """The figure: one titled picture per panel, class numbers at the left of each row of panels."""
    pictures = [tile(grid.images, layout.columns, layout.upscale) for grid in grids]
    across = min(layout.panels_per_row, len(grids))
    down = -(-len(grids) // across)
    height, width = pictures[0].shape[:2]
    figure = style.new_figure(layout.width, down * (layout.width / across * height / width + 0.2), pad=0.02)
    axes_grid = figure.subplots(down, across, squeeze=False)
    for axes, grid, picture in zip(axes_grid.flat, grids, pictures):
        axes.imshow(picture, interpolation="none")
        name = f"{grid.title} (NFE {grid.nfe})" if grid.nfe else grid.title
        axes.set_title(name, fontsize=7, pad=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    if layout.by_class and grids[0].classes[0] is not None:
        _label_rows(layout, axes_grid[:, 0], grids[0], pictures[0].shape[0])
    for axes in list(axes_grid.flat)[len(grids) :]:
        axes.set_axis_off()
    return figure


def _label_rows(layout: SamplesLayout, first_column: Any, grid: Grid, height: int) -> None:
    step = height / layout.rows
    for axes in first_column:
        axes.set_yticks([step * (row + 0.5) for row in range(layout.rows)])
        axes.set_yticklabels([str(grid.classes[row * layout.columns]) for row in range(layout.rows)])
        axes.tick_params(length=0, pad=2)


def samples_csv(layout: SamplesLayout, grids: Sequence[Grid]) -> str:
    """One line per image: where it is, its seed (or index in the data) and its generator's digest."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["panel", "row", "column", "class", "seed", "data_index", "run", "nfe", "sha256"])
    for grid in grids:
        for i, (origin, label) in enumerate(zip(grid.origins, grid.classes)):
            seed, index = ("", origin) if grid.nfe is None else (origin, "")
            row, column = divmod(i, layout.columns)
            known = "" if label is None else label
            writer.writerow(
                [grid.title, row, column, known, seed, index, grid.run, grid.nfe or "", grid.network_sha256]
            )
    return stream.getvalue()
