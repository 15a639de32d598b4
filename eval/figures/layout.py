"""Layouts of curves over training and of grids of samples.

Base classes of figure kinds: a kind names the data of a figure, checks its layout against a preset, and draws it.

The kinds are in :mod:`eval.figures.build`. The fields of a kind are the keys of its layouts
(``config/figures/*.yaml``), which hold panels, series and reference lines, never numbers.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from eval.figures.sources import Sources
from eval.results.sheet import SELECTABLE, Needs, SheetRow, matching
from eval.results.training_logs import Curve
from sida.config.settings import Count, Range
from sida.errors import SettingError, UserError, suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Size of a figure in inches: smaller figures are unreadable, larger sizes are typing errors.
Inches = Annotated[float, Range(least=1, most=20)]
#: Sample sheet by run id.
Runs = Mapping[str, SheetRow]


class Drawing(NamedTuple):
    """A figure, its data as CSV text, names of series without data, and notes for the user."""

    figure: Figure
    csv: str
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class FigureKind(abc.ABC):
    """Base class of figure kinds; an instance is one layout.

    Attributes:
        width: Width in inches; 3.3 is a column, 6.8 a page of the usual two-column paper.
        scope: Conditions that all rows of the figure meet.
        source: File of the layout, for messages.
    """

    title: str = ""
    caption: str = ""
    width: Inches = 6.8
    scope: Mapping[str, Any] | None = None
    source: str = ""

    @abc.abstractmethod
    def needs(self, runs: Runs) -> Needs:
        """Rows and studies that the figure shows.

        Raises:
            UserError: The layout does not fit the sheet.
        """

    @abc.abstractmethod
    def check(self, sources: Sources) -> None:
        """Checks the layout against a preset before the first job, with the checks of :meth:`build`.

        Args:
            sources: Placeholder data: each row has each metric of its protocol.

        Raises:
            UserError: The preset does not have a row, metric or study of the layout.
        """

    @abc.abstractmethod
    def build(self, sources: Sources) -> Drawing:
        """Draws the figure.

        Raises:
            UserError: Data that are not optional in the layout are missing or faulty.
        """

    def pick(self, conditions: Mapping[str, Any], runs: Runs) -> list[SheetRow]:
        """Rows of the sheet that meet conditions, in its order, within the figure's scope."""
        return matching(runs, {**(self.scope or {}), **conditions})


def require_panels(panels: tuple[Any, ...]) -> None:
    """Refuses a figure without panels.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise SettingError("panels", "must not be empty")


def check_pick(spec: object, ways: tuple[str, ...], remedy: str) -> None:
    """Requires that exactly one of the fields ``ways`` picks runs, with conditions on columns of the sample sheet.

    Raises:
        ValueError: ``key: what is wrong``.
    """
    given = [name for name in ways if getattr(spec, name) is not None]
    if len(given) != 1:
        raise SettingError("where", remedy)
    conditions = getattr(spec, given[0])
    for key in conditions if isinstance(conditions, Mapping) else ():
        if key not in SELECTABLE:
            raise SettingError(given[0], f"the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")


@dataclass(frozen=True)
class LineSpec:
    """A horizontal reference line: a measured run, or a published number by its id.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions; the first match in the sheet is taken, and without a match there is no line.
        start_of: Conditions like ``first``; the line is the run from which the match starts (column ``init``).
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
        check_pick(self, ways, "name a run (where, first or start_of) or a published number, one of them")


@dataclass(frozen=True, kw_only=True)
class PanelsFigure(FigureKind):
    """Base class of figures with several pairs of axes.

    Attributes:
        panels: The pairs of axes, row by row.
        height: Height in inches.
        columns: Number of panels side by side.
        share_y: Whether panels of a row have one vertical scale.
        widths: Relative widths of the panels of a row; equal if optional panels are left out.
        legend: A legend in each panel, or one below all panels (which then also names the lines).
    """

    panels: tuple[Any, ...]
    height: Inches = 3.0
    columns: Count = 3
    share_y: bool = False
    widths: tuple[float, ...] | None = None
    legend: Literal["panels", "below"] = "below"

    def __post_init__(self) -> None:
        require_panels(self.panels)
        if self.widths is not None and (len(self.widths) != self.beside or min(self.widths) <= 0):
            raise SettingError("widths", f"must be {self.beside} positive numbers, one for each panel of a row")

    @property
    def beside(self) -> int:
        """Number of panels in a full row."""
        return min(self.columns, len(self.panels))

    def of(self, panels: tuple[Any, ...]) -> Self:
        """The figure with other panels; panels are equally wide if a row has become shorter."""
        fewer = dataclasses.replace(self, panels=panels, widths=None)
        return dataclasses.replace(fewer, widths=self.widths) if fewer.beside == self.beside else fewer

    def present(self, runs: Runs) -> Self:
        """The figure without optional panels whose series match no run.

        Raises:
            UserError: No panel is left.
        """
        panels = tuple(p for p in self.panels if not p.optional or any(self.pick(s.each, runs) for s in p.series))
        if not panels:
            raise UserError(self.source, "no run of the sample sheet matches any of its panels", "remove the figure")
        return self.of(panels)

    def line_rows(self, line: LineSpec, runs: Runs) -> list[SheetRow]:
        """Rows that a reference line names; a line needs exactly one."""
        if line.start_of is not None:
            first = self.pick(line.start_of, runs)[:1]
            return [runs[run.init] for run in first if run.init and run.init in runs]
        if line.first is not None:
            return self.pick(line.first, runs)[:1]
        return [] if line.where is None else self.pick(line.where, runs)


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
            raise SettingError("of", "name the analysis that has the columns x and y, or remove them")
        if self.of is not None and not (self.x and self.y):
            raise SettingError("of", "name the analysis's columns, x and y")
        if self.of is not None and (self.lines or self.log):
            raise SettingError("of", "a panel of an analysis has neither log nor lines", "remove them")
        if self.log is None:
            return
        group, dot, name = self.log.partition(".")
        if group not in LOGGED:
            raise SettingError("log", f"a training log has no '{group}'{suggestion(group, LOGGED)}")
        if LOGGED[group] != bool(name) or bool(dot) != bool(name):
            names = f"'{group}.generator', say" if LOGGED[group] else f"'{group}' alone"
            raise SettingError(f"log: '{self.log}'", f"give {names}")
        if self.lines:
            raise SettingError("lines", "are of measured metrics", "a panel of a training log has none")


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
            raise SettingError("batch", "is needed to count iterations", "give the batch size")

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

    def panel_rows(self, panel: SamplesPanel, runs: Runs) -> list[SheetRow]:
        """Rows of the sheet that a panel shows."""
        if panel.where is not None:
            return self.pick(panel.where, runs)
        if panel.each is not None:
            return self.pick(panel.each, runs)
        return self.pick(panel.first or {}, runs)[:1]

    def grids(self, runs: Runs) -> tuple[list[tuple[SamplesPanel, SheetRow]], list[str]]:
        """Each grid to draw with its run, and the names of optional panels without one.

        Raises:
            UserError: ``where`` does not pick exactly one run, or nothing is left to draw.
        """
        shown: list[tuple[SamplesPanel, SheetRow]] = []
        missing = []
        for number, panel in enumerate(self.panels):
            where, found = f"{self.source}: panels[{number}].where", self.panel_rows(panel, runs)
            if panel.where is not None and len(found) != 1:
                if found or not panel.optional:
                    raise UserError(where, f"{len(found)} runs match {dict(panel.where)}", "it must pick exactly one")
                missing.append(panel.title or f"{where} {dict(panel.where)}")
            shown += [(panel, run) for run in found]
        if not shown:
            raise UserError(self.source, "nothing to draw: none of its runs is in the sample sheet")
        return shown, missing
