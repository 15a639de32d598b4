"""Figures from layouts: kinds of figures, their data, and the files of a figure.

A kind checks its layout against a preset and draws it. The fields of a kind are the keys of its layouts
(``config/figures/*.yaml``), which hold panels, series and reference lines, never numbers.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from sida.config.named_files import find_file
from sida.config.registries import Registry
from sida.config.settings import Range, from_mapping, load_spec
from sida.errors import SettingError, UserError
from sida.eval.figures import style
from sida.eval.results.conditions import Needs, Planned, check_columns
from sida.eval.results.extended import read_extended
from sida.eval.results.logs import Point, has_log, has_metric, kept_images, log_path, read_evaluations
from sida.eval.results.measurements import Measurements, measured_in
from sida.eval.results.sheet import SheetRow, read_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Size of a figure in inches: smaller figures are unreadable, larger sizes are typing errors.
Inches = Annotated[float, Range(least=1, most=20)]
#: Sample sheet by run id.
Runs = Mapping[str, SheetRow]


@dataclass(frozen=True)
class Sources:
    """Data of a figure.

    Attributes:
        measurements: All measurements.
        runs: Sample sheet by run id.
        results: Results of the preset, with ``students/<run>/``.
        generators: Specs of ``measure`` of the generators to sample; None without a spec.
    """

    measurements: Measurements
    runs: Runs
    results: Path
    generators: Any = field(default=None, kw_only=True)

    def reason_missing(self, run: str, metric: str) -> str:
        """Reason why a run's curve cannot be drawn; empty if it can be drawn."""
        path = self._evaluations(run)
        if not has_log(path):
            return f"no {path}"
        return "" if has_metric(path, metric) else f"no {metric} in {path}"

    def points(self, run: str, metric: str) -> tuple[Point, ...]:
        """Evaluations of a run with a finite value.

        Args:
            run: Row of the sheet.
            metric: Key of the metric.

        Raises:
            UserError: No log, or a log without the metric, or without a number for it.
        """
        path = self._evaluations(run)
        points = tuple(p for p in read_evaluations(path, metric) if math.isfinite(p.value))
        if not points:
            raise UserError(path, f"no evaluation gave a number for {metric}", "leave the run out of the layout")
        return points

    def kept_at(self, run: str) -> int | None:
        """Training images of the network that the training kept; None if unknown."""
        return kept_images(self._evaluations(run))

    def _evaluations(self, run: str) -> Path:
        return log_path(self.results, run, "evaluations")


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
        source: File of the layout, for messages.
    """

    title: str = ""
    caption: str = ""
    width: Inches = 6.8
    source: str = ""

    @abc.abstractmethod
    def needs(self, runs: Runs) -> Needs:
        """Rows that the figure shows.

        Raises:
            UserError: The layout does not fit the sheet.
        """

    @abc.abstractmethod
    def check(self, planned: Planned) -> None:
        """Checks the layout against a preset before the first job, which no number and no package of the jobs needs.

        Args:
            planned: What the preset measures.

        Raises:
            UserError: The preset does not have a row or metric of the layout.
        """

    def data(self, sources: Sources) -> str | None:
        """The figure's CSV as text, for ``sida verify``; None for a kind whose data need the drawing."""
        return None

    @abc.abstractmethod
    def build(self, sources: Sources) -> Drawing:
        """Draws the figure.

        Raises:
            UserError: Data that are not optional in the layout are missing or faulty.
        """


def check_pick(spec: object, fields: tuple[str, ...], remedy: str) -> None:
    """Requires that exactly one of some fields picks runs, with conditions on columns of the sample sheet.

    Raises:
        ValueError: ``key: what is wrong``.
    """
    set_fields = [name for name in fields if getattr(spec, name) is not None]
    if len(set_fields) != 1:
        raise SettingError("where", remedy)
    conditions = getattr(spec, set_fields[0])
    check_columns(set_fields[0], conditions if isinstance(conditions, Mapping) else ())


#: Figure kinds by the ``kind`` of a layout.
FIGURE_KINDS: Registry[Any] = Registry("figure_kinds", "figure kind", "sida.eval.figures.layout:FigureKind")


def load_figure_layout(path: str | Path) -> FigureKind:
    """Reads a figure's layout; its ``kind`` is one of :data:`FIGURE_KINDS`.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type (file and key are named), or code without permission.
    """
    return figure_layout(read_extended(Path(path)), str(path))


def figure_layout(mapping: Mapping[str, Any], source: str) -> FigureKind:
    """A layout from its content; ``source`` is its file. Errors are those of :func:`load_figure_layout`."""
    kind = FIGURE_KINDS.find(mapping.get("kind"), f"{source}: kind")
    settings = {key: value for key, value in mapping.items() if key != "kind"} | {"source": source}
    layout: FigureKind = from_mapping(kind, settings, f"{source}:")
    return layout


def build_figure(
    layout: str | Path,
    runs: str | Path,
    results: str | Path,
    out: str | Path,
    *,
    measurements: str | Path | None = None,
    spec: str | None = None,
) -> tuple[list[Path], list[str]]:
    """Builds a figure as ``.pdf``, ``.png`` and ``.csv``; returns the paths and remarks for the user.

    Args:
        layout: A file, or a name in ``config/figures``.
        runs: Sample sheet.
        results: Results of the preset; ``students/<run>/`` holds the training logs.
        out: The ``.pdf``; the other files are written beside it.
        measurements: ``measurements.csv``, for reference lines; a file that does not exist yet counts as empty.
        spec: JSON text or a file with ``generators`` for grids of samples.

    Raises:
        UserError: A faulty layout, log or sheet, or an output name that is not ``*.pdf``.
    """
    out = Path(out)
    if out.suffix != ".pdf":
        raise UserError(f"--out {out}", "must end in .pdf", ".png and .csv are written beside it")
    kind = load_figure_layout(find_file("figures", str(layout), where="--layout"))
    sheet = {run.run: run for run in read_runs(runs)}
    generators = load_spec(spec).get("generators", False) if spec else None
    sources = Sources(measured_in(measurements), sheet, Path(results), generators=generators)
    figure, data, missing, notes = kind.build(sources)
    paths = style.save(figure, out, kind.title, data)
    remarks = [f"not shown, no data yet: {name}" for name in missing]
    return paths, [*remarks, *dict.fromkeys(f"note: {note}" for note in notes)]
