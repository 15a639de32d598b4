"""Builds Table 8: hyperparameters from specs of trainings, time and memory from training logs.

Published values are printed beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.results.published import Published, published_number
from eval.results.sheet import Needs, SheetRow
from eval.results.training_logs import read_log
from eval.tables.build import RECORD_FIELDS
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import SettingError, suggestion
from sida.methods.registry import METHODS

if TYPE_CHECKING:
    from sida.config.recipe import ResolvedConfig

PRINTED_SETTINGS: dict[str, Callable[[ResolvedConfig, int], Any]] = {
    "batch_size": lambda c, gpus: c.batch_size,
    "batch_gpu": lambda c, gpus: c.batch_gpu or c.batch_size // gpus,
    "gpus": lambda c, gpus: f"{gpus} × {c.device}",
    "rounds": lambda c, gpus: c.batch_size // ((c.batch_gpu or c.batch_size // gpus) * gpus),
    "lr": lambda c, gpus: c.lr,
    "lambda_sid": lambda c, gpus: c.lambda_sid,
    "lambda_adv": lambda c, gpus: c.lambda_adv,
    "ema_half_life_mimg": lambda c, gpus: c.ema_half_life_kimg / 1000,
    "fp16": lambda c, gpus: c.fp16,
    "eps": lambda c, gpus: c.eps,
    "beta1": lambda c, gpus: c.betas[0],
    "beta2": lambda c, gpus: c.betas[1],
    "alpha": lambda c, gpus: c.alpha,
    "init_sigma": lambda c, gpus: c.init_sigma,
    "t_max": lambda c, gpus: c.t_max,
}
LOGS = ("memory_allocated_gb", "memory_reserved_gb", "seconds_per_kimg", "hours_per_10M", "days_per_100M")


@dataclass(frozen=True)
class DatasetColumn:
    """A column of the table: heading, key in the published ids, and the runs whose settings and logs it shows."""

    head: str
    key: str
    sid: str
    sida: str


@dataclass(frozen=True)
class HyperRow:
    """A line of the table.

    Attributes:
        group: Title of a method (``SiD``, ``SiDA``) for lines about this method; empty for common lines.
        published: Ids of the published values; ``{column}`` is the column's key.
        setting: Names in :data:`PRINTED_SETTINGS`, one or several.
        log: Name in :data:`LOGS`.
        text: Fixed text of a line without a number.
        span: Whether one published cell spans all columns.
        form: Format of several values, with ``{}`` for each.
    """

    label: str
    group: str = ""
    published: tuple[str, ...] = ()
    setting: tuple[str, ...] = ()
    log: str | None = None
    text: str | None = None
    span: bool = False
    form: str = "{}"

    def __post_init__(self) -> None:
        titles = [method.title for method in METHODS.values()]
        if self.group and self.group not in titles:
            raise SettingError("group", f"no method has the title '{self.group}'{suggestion(self.group, titles)}")
        for name in self.setting:
            if name not in PRINTED_SETTINGS:
                raise SettingError("setting", f"unknown setting '{name}'{suggestion(name, PRINTED_SETTINGS)}")
        if self.log is not None and self.log not in LOGS:
            raise SettingError("log", f"unknown quantity '{self.log}'{suggestion(self.log, LOGS)}")


@dataclass(frozen=True)
class HyperLayout:
    """Layout of kind ``hyperparameters``."""

    columns: tuple[DatasetColumn, ...]
    rows: tuple[HyperRow, ...]
    title: str = ""
    caption: str = ""
    number: int | str | None = None
    mode: Literal["paper", "audit", "measured"] | None = None
    notes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("columns", "rows"):
            if not getattr(self, key):
                raise SettingError(key, "must not be empty")

    @property
    def runs(self) -> list[str]:
        """Rows whose settings and logs are shown."""
        return [run for column in self.columns for run in (column.sid, column.sida)]

    def needs(self, runs: Mapping[str, SheetRow]) -> Needs:
        """Rows of a sheet whose trainings the table shows."""
        return Needs([], set(self.runs))


def build_hyperparameters(
    layout: HyperLayout,
    published: Mapping[str, Published],
    settings: Mapping[str, Any] | None,
    results: str | Path | None,
    mode: str | None = None,
) -> Table:
    """Builds Table 8.

    Args:
        layout: Lines and columns.
        published: Published numbers by id.
        settings: ``gpus``, and ``students``: for each row its ``settings`` (a :class:`sida.methods.DistillConfig`) and
            the ``network`` of its teacher (null reads the teacher's file). None: cells say 'not configured'.
        results: Folder whose ``students/<run>/train.jsonl`` give time and memory.
        mode: Overrides the layout's mode; the default of both is ``audit``.

    Raises:
        UserError: An unknown published id.
    """
    mode = mode or layout.mode or "audit"
    rows: list[Row] = []
    records: list[dict[str, Any]] = []
    for number, spec in enumerate(layout.rows):
        new_group = number > 0 and spec.group != layout.rows[number - 1].group
        lines: list[tuple[str, list[Cell]]] = []
        if mode != "measured" and (spec.published or spec.text is not None):
            lines.append(("published", _published_cells(layout, spec, number, published, records, mode)))
        if mode != "paper" and spec.text is None:
            kind = "configured" if spec.setting else _measured(layout, spec, settings, results)
            lines.append((kind, _own(layout, spec, settings, results, records)))
        if mode == "measured" and spec.text is not None:
            lines.append(("", [Cell(spec.text, columns=len(layout.columns))]))
        for i, (kind, cells) in enumerate(lines):
            head = [Cell(spec.group if new_group and i == 0 else ""), Cell(spec.label if i == 0 else "")]
            middle = [Cell(kind)] if mode == "audit" else []
            rows.append(Row((*head, *middle, *cells), new_group and i == 0, i > 0))
    heads = [Column("Method"), Column("Hyperparameters", name=True), *([Column("")] if mode == "audit" else [])]
    columns = (*heads, *(Column(column.head) for column in layout.columns))
    notes = list(layout.notes)
    if mode != "paper":
        notes.append("Configured: settings of the preset." if settings else "No settings were given (--spec).")
        notes.append("Measured: medians (memory: maxima) over the training logs without their first record.")
        if partial := {run: n for run in layout.runs if (n := _partial(run, settings, results))}:
            listed = ", ".join(f"{run} ({n})" for run, n in partial.items())
            notes.append(f"From N ticks: from the first log records of a training, not from a whole one: {listed}.")
    name, about = Path(layout.source).stem, (layout.title, layout.caption, mode)
    sources = tuple(record | {"table": name, "mode": mode} for record in records)
    return Table(name, *about, columns, tuple(rows), tuple(notes), layout.number, sources)


def _published_cells(
    layout: HyperLayout,
    spec: HyperRow,
    number: int,
    published: Mapping[str, Published],
    records: list[dict[str, Any]],
    mode: str,
) -> list[Cell]:
    if spec.text is not None:
        return [Cell(spec.text, "published", columns=len(layout.columns))]
    cells = []
    for column in layout.columns[:1] if spec.span else layout.columns:
        where = f"{layout.source}: rows[{number}].published"
        found = [published_number(published, key.replace("{column}", column.key), where) for key in spec.published]
        width = len(layout.columns) if spec.span else 1
        cells.append(Cell(spec.form.format(*(item.text for item in found)), "published", columns=width))
        for item in found:
            records.append(
                _record(spec, number, "all" if spec.span else column.key)
                | {
                    "published_id": item.id,
                    "published": item.text,
                    "published_std": item.std,
                    "published_source": item.source,
                    "published_literal": item.literal,
                }
            )
    return cells


def _record(spec: HyperRow, number: int, column: str) -> dict[str, Any]:
    place = {"row": number, "family": spec.group, "model": spec.label, "column": column}
    return dict.fromkeys(RECORD_FIELDS, "") | place | {"metric": spec.log or " ".join(spec.setting)}


def _own(
    layout: HyperLayout,
    spec: HyperRow,
    settings: Mapping[str, Any] | None,
    results: str | Path | None,
    records: list[dict[str, Any]],
) -> list[Cell]:
    cells = []
    number = layout.rows.index(spec)
    for column in layout.columns:
        run = _run(spec, column)
        text = _setting(spec, run, settings) if spec.setting else _logged(spec, run, results)
        cells.append(
            Cell(text, "measured") if text is not None else Cell("not configured" if spec.setting else "", "missing")
        )
        records.append(_record(spec, number, column.key) | {"run": run, "measured": text or ""})
    if len({cell.text for cell in cells}) == 1 and all(cell.kind == cells[0].kind for cell in cells) and spec.span:
        return [Cell(cells[0].text, cells[0].kind, columns=len(cells))]
    return cells


def _run(spec: HyperRow, column: DatasetColumn) -> str:
    return column.sid if spec.group == METHODS["sid"].title else column.sida


def _measured(layout: HyperLayout, spec: HyperRow, settings: Mapping[str, Any] | None, results: Any) -> str:
    """``measured``, or ``from N ticks`` if a training of the line is incomplete."""
    found = [n for column in layout.columns if (n := _partial(_run(spec, column), settings, results))]
    return f"from {min(found)} ticks" if found else "measured"


def _partial(run: str, settings: Mapping[str, Any] | None, results: str | Path | None) -> int | None:
    """Number of log records behind a run's numbers if its log is incomplete; else None."""
    path = Path(results) / "students" / run / "train.jsonl" if results is not None else None
    student = (settings or {}).get("students", {}).get(run)
    if path is None or student is None or not path.is_file():
        return None
    ticks = read_log(path)
    whole = bool(ticks) and ticks[-1]["nimg"] >= 1000 * student["settings"]["total_kimg"]
    return None if whole else max(1, len(ticks) - 1)


def _setting(spec: HyperRow, run: str, settings: Mapping[str, Any] | None) -> str | None:
    if settings is None or run not in settings["students"]:
        return None
    from sida.config.settings import from_mapping
    from sida.methods.resolve import DistillConfig, resolve_recipe
    from sida.networks.checkpoint import read_metadata

    student, where = settings["students"][run], f"run '{run}'"
    config = from_mapping(DistillConfig, student["settings"], where)
    # The file of an imported teacher has its architecture.
    network = student["network"] or read_metadata(config.teacher)["network"]
    gpus = max(1, int(settings["gpus"]))
    values = [_text(PRINTED_SETTINGS[name](resolve_recipe(config, network, where), gpus)) for name in spec.setting]
    form = spec.form if spec.form.count("{}") == len(values) else "{}"
    return form.format(*values)


def _text(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        mantissa, sign, exponent = short.partition("e")
        return f"{mantissa}e{int(exponent)}" if sign else short
    return str(value)


def _logged(spec: HyperRow, run: str, results: str | Path | None) -> str | None:
    path = Path(results) / "students" / run / "train.jsonl" if results is not None else None
    if path is None or not path.is_file():
        return None
    value = log_quantity(read_log(path), str(spec.log))
    return None if value is None else f"{value:.3g}"


def log_quantity(ticks: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Median of a quantity over the records of ``train.jsonl`` without the first, which includes the start-up.

    Args:
        ticks: Records with ``img_per_s`` and ``memory_mb`` (allocated) or ``memory_reserved_mb``.
        name: One of :data:`LOGS`.
    """
    ticks = list(ticks)[1:] or list(ticks)
    key = {"memory_allocated_gb": "memory_mb", "memory_reserved_gb": "memory_reserved_mb"}.get(name, "img_per_s")
    values = [float(tick[key]) for tick in ticks if tick.get(key)]
    if not values:
        return None
    if key != "img_per_s":
        return max(values) / 1024
    seconds = 1000 / statistics.median(values)
    return {"seconds_per_kimg": seconds, "hours_per_10M": seconds * 1e4 / 3600, "days_per_100M": seconds * 1e5 / 86400}[
        name
    ]
