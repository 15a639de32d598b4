"""Base classes of figure kinds, and their registry.

A kind names the data of a figure, checks its layout against a preset, and draws it. The fields of a kind are the keys
of its layouts (``config/figures/*.yaml``), which hold panels, series and reference lines, never numbers.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from eval.figures.sources import Sources
from eval.results.sheet import SELECTABLE, Needs, SheetRow, matching, read_extended
from sida.config.registry import Registry, RegistryEntry
from sida.config.resources import found_object
from sida.config.settings import Count, Range, from_mapping, names_file_object
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


AxisScale = Literal["log", "linear"]


@dataclass(frozen=True, kw_only=True)
class AxesSpec:
    """Base class of panels: one pair of axes of a figure of curves or of points.

    Attributes:
        lines: Horizontal lines.
        title: Heading of the panel.
        metric: Metric on the vertical axis: a key of the protocol.
        of: Analysis of the preset that is drawn instead of the metric.
        legend: Position of the legend in matplotlib's words, e.g. ``lower left``.
        optional: Whether the panel is left out if no row matches its series.
    """

    series: tuple[Any, ...]
    lines: tuple[LineSpec, ...] = ()
    title: str = ""
    metric: str = "fd"
    of: str | None = None
    x_label: str = ""
    y_label: str = ""
    x_scale: AxisScale = "log"
    y_scale: AxisScale = "log"
    legend: str = "best"
    optional: bool = False


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
        if self.widths is not None and (len(self.widths) != self.across or min(self.widths) <= 0):
            raise SettingError("widths", f"must be {self.across} positive numbers, one for each panel of a row")

    @abc.abstractmethod
    def gather(self, sources: Sources) -> Sequence[Any]:
        """Collects the data of every panel; of each, ``missing`` and ``notes`` are for the user.

        Raises:
            UserError: Data that are not optional in the layout are missing or faulty.
        """

    @abc.abstractmethod
    def draw(self, panels: Sequence[Any]) -> tuple[Figure, str]:
        """Draws data of :meth:`gather`; returns the figure and its CSV."""

    def check(self, sources: Sources) -> None:
        """Refuses series and lines without data."""
        self.present(sources.runs).gather(sources)

    def build(self, sources: Sources) -> Drawing:
        """Draws the panels whose series match a row."""
        layout = self.present(sources.runs)
        panels = layout.gather(sources)
        missing, notes = ([text for panel in panels for text in getattr(panel, name)] for name in ("missing", "notes"))
        return Drawing(*layout.draw(panels), missing, notes)

    @property
    def across(self) -> int:
        """Number of panels in a full row."""
        return min(self.columns, len(self.panels))

    def of(self, panels: tuple[Any, ...]) -> Self:
        """The figure with other panels; panels are equally wide if a row has become shorter."""
        fewer = dataclasses.replace(self, panels=panels, widths=None)
        return dataclasses.replace(fewer, widths=self.widths) if fewer.across == self.across else fewer

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


#: Figure kinds by the ``kind`` of a layout.
FIGURE_KINDS: Registry[RegistryEntry] = Registry(
    "figure kind",
    "eval.figures.layout:FigureKind",
    {
        "curves": RegistryEntry("eval.figures.curves_plot:CurvesFigure"),
        "samples": RegistryEntry("eval.figures.samples:SamplesFigure"),
        "points": RegistryEntry("eval.figures.points_plot:PointsFigure"),
    },
    files=True,
)


def load_figure_layout(path: str | Path) -> FigureKind:
    """Reads a figure's layout; its ``kind`` is one of :data:`FIGURE_KINDS`, or a class of the study's own.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type (file and key are named), or code without permission.
    """
    path = Path(path)
    mapping = read_extended(path)
    kind = FIGURE_KINDS.check(mapping.pop("kind", None), f"{path}: kind")
    if names_file_object(kind):
        # Beside the layout, or in the folder above, which is the preset's.
        kind = found_object(kind, [path.parent, path.parent.parent])
    mapping["source"] = str(path)
    shown: FigureKind = from_mapping(FIGURE_KINDS.find(kind, f"{path}: kind"), mapping, f"{path}:")
    return shown
