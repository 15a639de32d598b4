"""What a figure shows, as data (``config/figures/*.yaml``): panels, series and reference lines, never numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.results.selection import SELECTABLE, read_extended
from sida.config import from_mapping
from sida.errors import UserError, suggestion
from sida.ranges import Count


def _check_pick(spec: LineSpec | SamplesPanel | SeriesSpec, ways: tuple[str, ...], remedy: str) -> None:
    """Requires that one of the fields picks runs, and that its conditions are on columns of the sample sheet."""
    given = [name for name in ways if getattr(spec, name) is not None]
    if len(given) != 1:
        raise ValueError(f"where: {remedy}")
    conditions = getattr(spec, given[0])
    for key in conditions if isinstance(conditions, Mapping) else ():
        if key not in SELECTABLE:
            raise ValueError(f"{given[0]}: the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")


@dataclass(frozen=True)
class SeriesSpec:
    """Curves of training runs.

    Attributes:
        each: Conditions on the sample sheet; one curve per matching run.
        pool_seeds: Runs that differ only in their seed become one curve with a band over seeds.
        label: Name in the legend (default the sheet's); ``{alpha}`` stands for the run's α.
        optional: Whether no match is allowed; such a series is then reported as missing.
    """

    each: Mapping[str, Any]
    pool_seeds: bool = False
    label: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _check_pick(self, ("each",), "give conditions")


@dataclass(frozen=True)
class LineSpec:
    """A horizontal reference line: a measured run, or a published number by its id.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions of which the first match in the sheet is taken; without a match there is no line.
        start_of: The same, and the line is the run that this one starts from (column ``init``).
        published: Id in ``results/published``.
        optional: Whether ``where`` may match no run; the line is then reported as missing.
    """

    where: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None
    start_of: Mapping[str, Any] | None = None
    published: str | None = None
    label: str | None = None
    colour: Literal["grey", "purple", "green", "red", "cyan"] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        ways = ("where", "first", "start_of", "published")
        _check_pick(self, ways, "name a run (where, first or start_of) or a published number, one of them")


@dataclass(frozen=True)
class PanelSpec:
    """One pair of axes.

    Attributes:
        title: Heading of the panel.
        metric: Key of the metric in the protocol: in ``evaluations.jsonl`` (with ``<metric>_std``) and measurements.
        log_metric: Name of the metric in official logs, e.g. ``fid50k_full``.
        x_min: Left end of the axis where there is no curve yet.
        x_max: Curves are cut here (images, or iterations where the figure counts those).
        legend: Place of the legend in matplotlib's words, e.g. ``lower left``.
        optional: Whether the panel is left out where no run matches its series.
    """

    series: tuple[SeriesSpec, ...]
    lines: tuple[LineSpec, ...] = ()
    title: str = ""
    metric: str = "fd"
    log_metric: str | None = None
    y_label: str = ""
    x_label: str = ""
    y_scale: Literal["log", "linear"] = "log"
    x_scale: Literal["log", "linear"] = "log"
    x_min: float | None = None
    x_max: float | None = None
    legend: str = "best"
    optional: bool = False


@dataclass(frozen=True)
class CurvesLayout:
    """A figure of curves over training.

    Attributes:
        width: Inches; 3.3 is a column, 6.8 a page of the usual two-column paper.
        height: Inches.
        columns: Panels side by side.
        share_y: Whether panels of a row have one vertical scale.
        widths: Relative widths of the panels of a row.
        x: Unit of the horizontal axis; iterations are images divided by ``batch``.
        legend: A legend in each panel, or one below all of them (which then also names the lines).
        colours: Whether colour and marker tell methods apart, or values of α (see :mod:`eval.figures.style`).
        final: Mark the kept generator with its independent measurement.
    """

    panels: tuple[PanelSpec, ...]
    title: str = ""
    caption: str = ""
    width: float = 6.8
    height: float = 3.0
    columns: int = 3
    share_y: bool = True
    widths: tuple[float, ...] | None = None
    x: Literal["images", "iterations"] = "images"
    batch: int | None = None
    legend: Literal["panels", "below"] = "panels"
    colours: Literal["method", "alpha"] = "method"
    final: bool = True
    scope: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError("panels: must not be empty")
        if self.x == "iterations" and not self.batch:
            raise ValueError("batch: is needed to count iterations; give the batch size")
        if not (1 <= self.width <= 20 and 1 <= self.height <= 20):
            raise ValueError("width: width and height are inches between 1 and 20")


@dataclass(frozen=True)
class SamplesPanel:
    """A grid of images: the data themselves, or what one run of the sample sheet generates.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions of which the first match in the sheet is taken; without a match there is no panel.
        each: Conditions that give one panel per matching run, also none.
        title: Heading (default the sheet's label).
        optional: Whether ``where`` may match no run; the panel is then reported as missing.
    """

    where: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None
    each: Mapping[str, Any] | None = None
    title: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _check_pick(self, ("where", "first", "each"), "pick runs by one of where, first and each")


@dataclass(frozen=True)
class NeighboursSpec:
    """The real images that are shown below each image of a grid: the nearest of two data sets.

    Attributes:
        training: Data set that the generators were trained on, of ``config/datasets.yaml``.
        held_out: Data set that they were not trained on.
        extractor: Feature network in which images are near.
    """

    training: str
    held_out: str
    extractor: str = "pixels"


@dataclass(frozen=True)
class SamplesLayout:
    """A figure of sample grids, with the same seeds in every panel.

    Attributes:
        rows: Rows of each grid.
        by_class: Row r shows class r modulo the number of classes; else each seed draws its class, all equally likely,
            as ``sida sample`` does.
        columns: Columns of each grid; the image in row r, column c has seed ``first_seed + r·columns + c``.
        upscale: Nearest-neighbour factor before embedding, so that small images stay crisp.
        panels_per_row: Grids side by side.
        neighbours: Shows the nearest real images below each image. Rows and columns then change places, so that each
            block of three lines has one image of each class; there is a block for each of ``columns``.
    """

    panels: tuple[SamplesPanel, ...]
    title: str = ""
    caption: str = ""
    width: float = 6.8
    rows: Count = 10
    columns: Count = 6
    by_class: bool = True
    first_seed: int = 0
    upscale: Count = 8
    panels_per_row: Count = 5
    neighbours: NeighboursSpec | None = None
    scope: Mapping[str, Any] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError("panels: must not be empty")


def load_figure_layout(path: str | Path) -> CurvesLayout | SamplesLayout:
    """Reads a figure's layout; its ``kind`` is ``curves`` or ``samples``.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type (file and key are named).
    """
    mapping = read_extended(Path(path))
    kinds: dict[str, type[CurvesLayout] | type[SamplesLayout]] = {"curves": CurvesLayout, "samples": SamplesLayout}
    kind = mapping.pop("kind", None)
    if kind not in kinds:
        raise UserError(f"{path}: kind: must be one of {', '.join(kinds)}, got {kind!r}")
    mapping["source"] = str(path)
    return from_mapping(kinds[kind], mapping, str(path))
