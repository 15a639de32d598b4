"""Layouts of curves over training and of grids of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eval.figures.kind import FigureKind, LineSpec, PanelsFigure, Runs, check_pick, require_panels
from eval.results.sheet import Run
from eval.results.training_logs import Curve
from sida.config.ranges import Count
from sida.errors import UserError, suggestion


@dataclass(frozen=True)
class SeriesSpec:
    """Curves of training runs.

    Attributes:
        each: Conditions on the sample sheet; one curve per matching run.
        pool_seeds: Whether the matching runs with one label become one curve with a band over them: other training
            seeds, and other teachers where no label names them. A table pools training seeds only.
        label: Name in the legend (default: that of the sheet); ``{alpha}`` stands for the run's α.
        optional: Whether no match is allowed; the series is then reported as missing.
    """

    each: Mapping[str, Any]
    pool_seeds: bool = False
    label: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_pick(self, ("each",), "give conditions")


#: Quantities of ``train.jsonl`` that can be drawn, and whether each has values for several networks or losses.
LOGGED = {"losses": True, "grad_norm": True, "weight_rms": True, "nan_count": False, "bad_steps": False,
          "img_per_s": False, "memory_mb": False, "seconds": False}  # fmt: skip


@dataclass(frozen=True)
class PanelSpec:
    """One pair of axes.

    Attributes:
        title: Heading of the panel.
        metric: Key of the metric in the protocol, in ``evaluations.jsonl`` (with ``<metric>_std``) and in measurements.
        log: Quantity of ``train.jsonl`` instead of the metric, one of :data:`LOGGED`; for several networks or losses
            with the name of one, e.g. ``weight_rms.generator``.
        of: Analysis of the preset whose columns ``x`` and ``y`` are drawn instead of the metric.
        x: Column of the analysis on the horizontal axis.
        y: Column of the analysis on the vertical axis.
        chord: Whether a dotted straight line joins the ends of each curve.
        log_metric: Name of the metric in official logs, e.g. ``fid50k_full``.
        x_min: Left end of the axis if there is no curve yet.
        x_max: Right end of the curves (images, or iterations if the figure counts iterations).
        legend: Position of the legend in matplotlib's words, e.g. ``lower left``.
        optional: Whether the panel is left out if no run matches its series.
    """

    series: tuple[SeriesSpec, ...]
    lines: tuple[LineSpec, ...] = ()
    title: str = ""
    metric: str = "fd"
    log: str | None = None
    of: str | None = None
    x: str = ""
    y: str = ""
    chord: bool = False
    log_metric: str | None = None
    y_label: str = ""
    x_label: str = ""
    y_scale: Literal["log", "linear"] = "log"
    x_scale: Literal["log", "linear"] = "log"
    x_min: float | None = None
    x_max: float | None = None
    legend: str = "best"
    optional: bool = False

    def __post_init__(self) -> None:
        if self.of is None and (self.x or self.y):
            raise ValueError("of: name the analysis that has the columns x and y, or remove them")
        if self.of is not None and not (self.x and self.y):
            raise ValueError("of: name the analysis's columns, x and y")
        if self.of is not None and (self.lines or self.log):
            raise ValueError("of: a panel of an analysis has neither log nor lines; remove them")
        if self.log is None:
            return
        group, dot, name = self.log.partition(".")
        if group not in LOGGED:
            raise ValueError(f"log: a training log has no '{group}'{suggestion(group, LOGGED)}")
        if LOGGED[group] != bool(name) or bool(dot) != bool(name):
            names = f"'{group}.generator', say" if LOGGED[group] else f"'{group}' alone"
            raise ValueError(f"log: '{self.log}': give {names}")
        if self.lines:
            raise ValueError("lines: are of measured metrics; a panel of a training log has none")


@dataclass(frozen=True, kw_only=True)
class CurvesLayout(PanelsFigure):
    """A figure of curves over training.

    Attributes:
        x: Unit of the horizontal axis; iterations are images divided by ``batch``, seconds by a run's images per second
            of training, evaluations apart.
        colours: Whether colour and marker distinguish methods or values of α (see :mod:`eval.figures.style`).
        final: Whether the independent measurement of the kept generator is marked.
    """

    panels: tuple[PanelSpec, ...]
    share_y: bool = True
    legend: Literal["panels", "below"] = "panels"
    x: Literal["images", "iterations", "seconds"] = "images"
    batch: int | None = None
    colours: Literal["method", "alpha"] = "method"
    final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.x == "iterations" and not self.batch:
            raise ValueError("batch: is needed to count iterations; give the batch size")

    def unit(self, curve: Curve) -> float:
        """Images of one unit of the horizontal axis."""
        return {"images": 1.0, "iterations": self.batch or 1.0, "seconds": curve.rate or 1.0}[self.x]


@dataclass(frozen=True)
class SamplesPanel:
    """A grid of images: real images, or images of one run of the sample sheet.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions; the first match in the sheet is taken, and without a match there is no panel.
        each: Conditions; each matching run gives one panel.
        title: Heading (default: the label in the sheet).
        optional: Whether ``where`` may match no run; the panel is then reported as missing.
    """

    where: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None
    each: Mapping[str, Any] | None = None
    title: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        check_pick(self, ("where", "first", "each"), "pick runs by one of where, first and each")


@dataclass(frozen=True)
class NeighboursSpec:
    """Real images below each image of a grid: the nearest one of each of two data sets.

    Attributes:
        training: Data set of ``config/datasets.yaml`` that the generators were trained on.
        held_out: Data set that the generators were not trained on.
        extractor: Feature network for the distances.
    """

    training: str
    held_out: str
    extractor: str = "pixels"


@dataclass(frozen=True, kw_only=True)
class SamplesLayout(FigureKind):
    """A figure of sample grids, with the same seeds in every panel.

    Attributes:
        rows: Rows of each grid.
        by_class: Row r shows class r modulo the number of classes; otherwise each seed draws its class uniformly, as
            ``sida sample`` does.
        class_names: Names of classes 0, 1, … beside the rows (default: the numbers).
        columns: Columns of each grid; the image in row r, column c has seed ``first_seed + r·columns + c``.
        upscale: Nearest-neighbour factor before embedding, so that small images stay crisp.
        panels_per_row: Grids side by side.
        neighbours: Shows the nearest real images below each image. The grid is then transposed: there is a block of
            three lines for each of ``columns``, with one image of each class.
    """

    panels: tuple[SamplesPanel, ...]
    rows: Count = 10
    columns: Count = 6
    by_class: bool = True
    class_names: tuple[str, ...] = ()
    first_seed: int = 0
    upscale: Count = 8
    panels_per_row: Count = 5
    neighbours: NeighboursSpec | None = None

    def __post_init__(self) -> None:
        require_panels(self.panels)

    def panel_rows(self, panel: SamplesPanel, runs: Runs) -> list[Run]:
        """Rows of the sheet that a panel shows."""
        if panel.where is not None:
            return self.pick(panel.where, runs)
        if panel.each is not None:
            return self.pick(panel.each, runs)
        return self.pick(panel.first or {}, runs)[:1]

    def grids(self, runs: Runs) -> tuple[list[tuple[SamplesPanel, Run]], list[str]]:
        """Each grid to draw with its run, and the names of optional panels without one.

        Raises:
            UserError: ``where`` does not pick exactly one run, or nothing is left to draw.
        """
        shown: list[tuple[SamplesPanel, Run]] = []
        missing = []
        for number, panel in enumerate(self.panels):
            where, found = f"{self.source}: panels[{number}].where", self.panel_rows(panel, runs)
            if panel.where is not None and len(found) != 1:
                if found or not panel.optional:
                    raise UserError(f"{where}: {len(found)} runs match {dict(panel.where)}; it must pick exactly one")
                missing.append(panel.title or f"{where} {dict(panel.where)}")
            shown += [(panel, run) for run in found]
        if not shown:
            raise UserError(f"{self.source}: nothing to draw: none of its runs is in the sample sheet")
        return shown, missing
