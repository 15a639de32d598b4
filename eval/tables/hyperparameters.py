"""Table 8: hyperparameters from specs of trainings, time and memory from training logs, and published values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sida.config.settings import Natural, OneOf, from_mapping
from sida.errors import SettingError
from sida.eval.results.conditions import Needs, Planned
from sida.eval.results.logs import UNITS, has_log, log_path, logged_level, read_log
from sida.eval.results.published import published_number
from sida.eval.results.sheet import SheetRow
from sida.eval.tables.layout import Mode, TableKind, TableSources
from sida.eval.tables.model import RECORD_FIELDS, Cell, Column, Row, Table, published_record
from sida.eval.tables.notes import papers_notes
from sida.methods.registry import METHODS, DistillConfig, resolve_recipe

if TYPE_CHECKING:
    from sida.config.recipe import ResolvedConfig

#: Settings that are printed as they are.
_PLAIN = ("batch_size", "lr", "lambda_sid", "lambda_adv", "fp16", "eps", "alpha", "init_sigma", "t_max")
PRINTED_SETTINGS: dict[str, Callable[[ResolvedConfig, int], Any]] = {
    **{name: lambda c, gpus, name=name: getattr(c, name) for name in _PLAIN},  # type: ignore[misc]
    "batch_gpu": lambda c, gpus: c.batch_gpu or c.batch_size // gpus,
    "gpus": lambda c, gpus: f"{gpus} × {c.device}",
    "rounds": lambda c, gpus: c.batch_size // ((c.batch_gpu or c.batch_size // gpus) * gpus),
    "ema_half_life_mimg": lambda c, gpus: c.ema_half_life_kimg / 1000,
    "beta1": lambda c, gpus: c.betas[0],
    "beta2": lambda c, gpus: c.betas[1],
}


Title = Annotated[str, OneOf(lambda: [method.title for method in METHODS.values()])]


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
        log: Name in :data:`sida.eval.results.logs.UNITS`.
        text: Fixed text of a line without a number.
        span: Whether one published value holds for all columns.
        form: Format of several values, with ``{}`` for each.
    """

    label: str
    group: Title = ""
    published: tuple[str, ...] = ()
    setting: tuple[Annotated[str, OneOf(PRINTED_SETTINGS.keys)], ...] = ()
    log: Annotated[str, OneOf(UNITS.keys)] | None = None
    text: str | None = None
    span: bool = False
    form: str = "{}"

    def __post_init__(self) -> None:
        if not (self.published or self.setting or self.log) and self.text is None:
            raise SettingError("setting", "a line needs published numbers, a setting, a log or a text", "name one")
        values = self.published or self.setting or ("",)
        try:
            self.form.format(*values)
        except (AttributeError, IndexError, KeyError, ValueError):
            raise SettingError("form", f"'{self.form}' must have {{}} for each of {len(values)} values") from None


@dataclass(frozen=True)
class Training:
    """Settings of a training, and its network's architecture; None: the teacher's file has it."""

    settings: Mapping[str, Any]
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Trainings:
    """Settings that the table prints: of the trainings, by row; and the number of GPUs."""

    gpus: Natural
    students: Mapping[str, Training]


@dataclass(frozen=True, kw_only=True)
class HyperLayout(TableKind):
    """Layout of kind ``hyperparameters``; the default mode is ``audit``."""

    shows_settings = True

    columns: tuple[DatasetColumn, ...]
    rows: tuple[HyperRow, ...]

    @property
    def runs(self) -> list[str]:
        """Rows whose settings and logs are shown."""
        return [run for column in self.columns for run in (column.sid, column.sida)]

    def needs(self, runs: Mapping[str, SheetRow]) -> Needs:
        """Rows of a sheet whose trainings the table shows."""
        return Needs([], set(self.runs))

    def check(self, planned: Planned, mode: Mode | None = None) -> None:
        """Checks ids of published values and names of settings, by the table without settings."""
        self.build(TableSources(None, planned.runs, mode))

    def build(self, sources: TableSources) -> Table:
        """Builds Table 8; without settings, cells say 'not configured'."""
        mode = sources.mode or self.mode or "audit"
        about = {"table": Path(self.source).stem, "mode": mode}
        settings = {key: value for key, value in (sources.settings or {}).items() if key in ("gpus", "students")}
        trainings = None if sources.settings is None else from_mapping(Trainings, settings, "--spec:")
        return _Builder(self, trainings, sources.results, mode, about).table()


@dataclass(frozen=True)
class _Builder:
    """Builds the table of a layout.

    Attributes:
        about: Fields that all records have.
    """

    layout: HyperLayout
    trainings: Trainings | None
    results: Path | None
    mode: Mode
    about: Mapping[str, str]
    records: list[dict[str, Any]] = field(default_factory=list)

    def table(self) -> Table:
        """The table, with its notes."""
        layout, audit = self.layout, self.mode == "audit"
        rows, group = list[Row](), ""
        for number, spec in enumerate(layout.rows):
            # The first line of a group that the mode shows has its name, below a rule.
            if lines := self._rows(number, spec.group if spec.group != group else None):
                rows += lines
                group = str(spec.group)
        heads = [Column("Method", about=True), Column("Hyperparameters", name=True), *[Column("")] * audit]
        columns = (*heads, *(Column(column.head) for column in layout.columns))
        notes = [*layout.notes, *papers_notes(str(record["published_source"]) for record in self.records)]
        if self.mode != "paper":
            configured = self.trainings is not None
            notes.append("Configured: settings of the preset." if configured else "No settings were given (--spec).")
            notes.append("Measured: medians (memory: maxima) over the training logs without their first record.")
        about = (self.about["table"], layout.title, layout.caption, self.mode)
        return Table(*about, columns, tuple(rows), tuple(notes), layout.number, tuple(self.records))

    def _rows(self, number: int, new_group: str | None) -> list[Row]:
        """The lines of a row: published and own values, as far as the mode shows them; None: the group goes on."""
        spec = self.layout.rows[number]
        lines: list[tuple[str, list[Cell]]] = []
        if self.mode != "measured" and (spec.published or spec.text is not None):
            lines.append(("published", self._published(number)))
        if self.mode != "paper" and spec.text is None and (spec.setting or spec.log):
            lines.append(("configured" if spec.setting else "measured", self._own_cells(number)))
        if self.mode == "measured" and spec.text is not None:
            lines.append(("", [Cell(spec.text)] * len(self.layout.columns)))
        rows = []
        for i, (kind, cells) in enumerate(lines):
            head = [Cell(new_group or ""), Cell(spec.label)] if i == 0 else [Cell(""), Cell("")]
            middle = [Cell(kind)] if self.mode == "audit" else []
            rows.append(Row((*head, *middle, *cells), new_group is not None and i == 0, i > 0))
        return rows

    def _published(self, number: int) -> list[Cell]:
        spec, columns = self.layout.rows[number], self.layout.columns
        if spec.text is not None:
            return [Cell(spec.text, "published")] * len(columns)
        cells, where = [], f"{self.layout.source}: rows[{number}].published"
        for column in columns[:1] if spec.span else columns:
            ids = [key.replace("{column}", column.key) for key in spec.published]
            numbers = [published_number(key, where) for key in ids]
            text = spec.form.format(*(item.text for item in numbers))
            cells += [Cell(text, "published")] * (len(columns) if spec.span else 1)
            for item in numbers:
                self._record(number, "all" if spec.span else column.key, published_record(item))
        return cells

    def _own_cells(self, number: int) -> list[Cell]:
        """Configured or measured values."""
        spec, cells = self.layout.rows[number], []
        for column in self.layout.columns:
            run = _run_of(spec, column)
            text = self._setting(spec, run) if spec.setting else self._log_text(spec, run)
            empty_cell = Cell("not configured" if spec.setting else "", "missing")
            cells.append(empty_cell if text is None else Cell(text, "measured"))
            self._record(number, column.key, {"run": run, "measured": text or ""})
        return cells

    def _record(self, number: int, column: str, fields: Mapping[str, str]) -> None:
        spec = self.layout.rows[number]
        position = {"row": number, "family": spec.group, "model": spec.label, "column": column}
        position["metric"] = spec.log or " ".join(spec.setting)
        self.records.append({**dict.fromkeys(RECORD_FIELDS, ""), **position, **fields, **self.about})

    def _setting(self, spec: HyperRow, run: str) -> str | None:
        if self.trainings is None or run not in self.trainings.students:
            return None
        from sida.networks.file import read_metadata

        student, where = self.trainings.students[run], f"run '{run}'"
        config = from_mapping(DistillConfig, student.settings, where)
        network = student.network or read_metadata(str(config.teacher))["network"]
        resolved, gpus = resolve_recipe(config, network, where), max(1, self.trainings.gpus)
        values = [_text(PRINTED_SETTINGS[name](resolved, gpus)) for name in spec.setting]
        form = spec.form if spec.form.count("{}") == len(values) else "{}"
        return form.format(*values)

    def _log_text(self, spec: HyperRow, run: str) -> str | None:
        path = log_path(self.results, run, "train") if self.results else None
        level = logged_level(read_log(path), str(spec.log)) if path and has_log(path) else None
        return None if level is None else f"{level.mean:.3g}"


def _run_of(spec: HyperRow, column: DatasetColumn) -> str:
    return column.sid if spec.group == METHODS["sid"].title else column.sida


def _text(value: Any) -> str:
    if isinstance(value, float):
        digits = f"{value:g}"
        mantissa, sign, exponent = digits.partition("e")
        return f"{mantissa}e{int(exponent)}" if sign else digits
    return str(value)
