"""Layouts of tables as data (``tables/*.yaml`` of a study and of ``config/``): columns, rows and the bold rule."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from sida.config.registries import Registry
from sida.config.settings import Range, from_mapping
from sida.errors import SettingError, UserError, suggestion
from sida.eval.results.conditions import Needs, Planned, check_columns, matching, with_other_seeds
from sida.eval.results.extended import read_extended
from sida.eval.results.measurements import Measurements
from sida.eval.results.sheet import SheetRow
from sida.eval.tables.model import Table

Mode = Literal["paper", "audit", "measured"]
TextField = Literal["family", "label", "nfe", "cfg", "data", "network", "needs", "saw", "seeds"]


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a table.

    Attributes:
        head: Heading; ``@id`` prints a published number's literal text, e.g. a model size.
        field: Text column: a property of the row (:data:`TextField`).
        metric: Number column: key of a metric in ``measurements.csv``.
        key: Value of ``{column}`` in the rows' ``run`` and ``published`` ids, e.g. a model size.
        direction: Direction of better values, for the arrow and the bold rule.
        decimals: Decimals of measured values; published numbers are printed exactly as in the paper.
        scale: Factor for measured values, e.g. 100 for per cent.
        spread: Whether ``± std`` is printed.
        arrow: Whether the heading shows the direction.
        run: Run of the cells instead of the row's run (``{run}`` in the text): a run measured under another protocol.
            Such a column shows no published numbers.
        optional: Whether the column is left out where no row of ``measurements.csv`` has its metric.
    """

    head: str
    field: TextField | None = None
    metric: str | None = None
    key: str = ""
    direction: Literal["lower", "higher"] | None = None
    decimals: Annotated[int, Range(least=0, most=8)] = 3
    scale: float = 1.0
    spread: bool = True
    arrow: bool = True
    run: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if (self.field is None) == (self.metric is None):
            raise SettingError("field", "name either a field or a metric, not both")

    @property
    def id(self) -> str:
        """Key of the column within the table."""
        return self.key or self.metric or str(self.field)


@dataclass(frozen=True)
class RowSpec:
    """A row of a table, or with ``each`` one row per matching run of the sample sheet.

    Attributes:
        run: Id of a run; ``{column}`` stands for the column's key.
        pool: Further runs with other training seeds. Cells then show the mean of the runs' means and, after ±, the
            sample standard deviation of these means, not of the trials.
        pool_seeds: Pools all runs that differ from ``run`` in the training seed only.
        each: Conditions that give one row per matching run, in the sheet's order.
        optional: Whether ``each`` may match no run.
        published: Id in ``results/published``; ``{metric}`` and ``{column}`` are replaced.
        family: Group (default the sheet's).
        label: Name (default the sheet's).
        measured_label: Name in measured mode, where the label is for published numbers.
        nfe: Printed number of function evaluations (default the measured one).
        cfg: Whether guidance is used, for tables with such a column.
        data: Whether real images are used, for tables with such a column.
        network: Where the released network is, for tables with such a column.
        needs: Requirements of the training (data, teacher, discriminator), for tables with such a column.
        rule: Whether a line is drawn above the row, even within a family.
        continues: Whether the row continues the row above; its label is not printed again.
        blank: Columns (by id) whose cell is blank in the paper.
        dash: Columns (by id) whose cell is a dash in the paper.
        later: Columns (by id) whose released file is later than the printed number; such cells are not compared.
        guest: Whether the row was added to a finished table: values that are not comparable with the other rows are
            left out, with a note, instead of an error. With ``scored`` such a value is an error.
        scored: Whether the row is a score that was added (``--add``), which modes of published numbers show as well.
        candidate: Whether the row may be bold.
    """

    run: str | None = None
    pool: tuple[str, ...] = ()
    pool_seeds: bool = False
    each: Mapping[str, Any] | None = None
    published: str | None = None
    family: str | None = None
    label: str | None = None
    measured_label: str | None = None
    nfe: str | None = None
    cfg: str | None = None
    data: str | None = None
    network: str | None = None
    needs: str | None = None
    rule: bool = False
    continues: bool = False
    blank: tuple[str, ...] = ()
    dash: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    guest: bool = False
    scored: bool = False
    candidate: bool = True
    optional: bool = False

    def __post_init__(self) -> None:
        check_columns("each", self.each or ())
        if self.published is not None and self.each is not None:
            raise SettingError("published", "cannot be combined with each", "one published row belongs to one run")
        if self.pool_seeds and self.pool:
            raise SettingError("pool_seeds", "cannot stand beside pool, which lists the runs", "use one of them")
        if (self.pool or self.pool_seeds) and (self.run is None or self.published is not None):
            raise SettingError("pool", "needs run, and cannot stand beside published: its ± is over training seeds")
        if len({self.run, *self.pool}) != 1 + len(self.pool):
            raise SettingError("pool", "names a run twice", "list each further run once")


@dataclass(frozen=True)
class BoldSpec:
    """The bold rule: the best value of a column among rows within ``max_nfe`` evaluations and these families."""

    max_nfe: int | None = None
    families: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TableSources:
    """Data of a table.

    Attributes:
        measurements: All measurements; None without a file of them.
        runs: Sample sheet by run id; None makes a row of each measured generator.
        mode: Overrides the layout's mode.
        scores: Files of ``sida score``, whose rows are added at the end.
        settings: ``retraining``; for tables of settings ``gpus``, and ``students`` with the settings of each row.
        results: Folder whose ``students/<run>/train.jsonl`` give time and memory.
    """

    measurements: Measurements | None
    runs: Mapping[str, SheetRow] | None
    mode: Mode | None = None
    scores: Sequence[str | Path] = ()
    settings: Mapping[str, Any] | None = None
    results: Path | None = None


def with_values(run: str, values: Mapping[str, Any]) -> str:
    """Id of a run with the values of the names in braces; other names stay."""
    for name, value in values.items():
        run = run.replace(f"{{{name}}}", str(value))
    return run


@dataclass(frozen=True, kw_only=True)
class TableKind(abc.ABC):
    """Base class of table kinds; an instance is one layout.

    Attributes:
        number: Number of the table in the paper; a variant has words after it, e.g. ``4 (version 4)``.
        mode: Mode if the command line names none.
        notes: Lines printed below.
        source: File of the layout, for messages.
    """

    #: Whether the table shows settings of trainings, which its spec then has, instead of measurements.
    shows_settings: ClassVar[bool] = False

    title: str = ""
    caption: str = ""
    number: int | str | None = None
    mode: Mode | None = None
    notes: tuple[str, ...] = ()
    source: str = ""

    @abc.abstractmethod
    def needs(self, runs: Mapping[str, SheetRow]) -> Needs:
        """Rows of a sheet that the table shows.

        Raises:
            UserError: The layout does not fit the sheet.
        """

    @abc.abstractmethod
    def build(self, sources: TableSources) -> Table:
        """Builds the table.

        Raises:
            UserError: Data are missing or faulty.
        """

    def check(self, planned: Planned, mode: Mode | None = None) -> None:
        """Checks the layout against a preset before the first job, which no number and no package of the jobs needs.

        Args:
            planned: What the preset measures.
            mode: Overrides the layout's mode.

        Raises:
            UserError: The preset does not have a row or metric of the layout.
        """
        self.needs(planned.runs)


@dataclass(frozen=True, kw_only=True)
class TableLayout(TableKind):
    r"""Layout of a table of results.

    Attributes:
        columns: From left to right.
        rows: From top to bottom; the family is printed where it changes.
        bold: Bold rule; null for none.
        vars: Values of ``{name}`` in the rows' ``run`` ids, e.g. the data set.
        published_notes: Further lines about the published numbers, printed in modes that show these.
        protocol: Protocol of a score for this table (``sida score --like``); by default its published numbers'.
        cite: Whether the LaTeX has ``\cite`` in labels; compiled alone it has the references.
    """

    columns: tuple[ColumnSpec, ...]
    rows: tuple[RowSpec, ...]
    bold: BoldSpec | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    published_notes: tuple[str, ...] = ()
    protocol: str = ""
    cite: bool = False

    def __post_init__(self) -> None:
        if not self.columns:
            raise SettingError("columns", "must not be empty")
        ids = [column.id for column in self.columns]
        double = next((name for name in ids if ids.count(name) > 1), None)
        if double is not None:
            raise SettingError("columns", f"'{double}' occurs twice", "give one of them another key")

    def runs_of(self, row: RowSpec, column: ColumnSpec) -> tuple[str, ...]:
        """Ids of the runs whose mean a column shows in a row, with the values of the names in braces."""
        ids = []
        for run in () if row.run is None else (row.run, *row.pool):
            run = run.replace("{column}", column.key)
            run = column.run.replace("{run}", run) if column.run else run
            ids.append(with_values(run, self.vars))
        return tuple(ids)

    def needs(self, runs: Mapping[str, SheetRow]) -> Needs:
        """Rows of a sheet that the table shows."""
        rows = [row for _, row in expand(self, runs)]
        names = {run for row in rows for column in self.columns for run in self.runs_of(row, column)}
        return Needs(names, names)


#: Table kinds by the ``kind`` of a layout.
TABLE_KINDS: Registry[Any] = Registry("table_kinds", "table kind", "sida.eval.tables.layout:TableKind")


def load_table_layout(path: str | Path) -> TableKind:
    """Reads a layout; ``extends: other.yaml`` names a file for all keys that the layout does not set.

    Raises:
        UserError: Missing file, unknown kind or key, wrong type (file and key are named), or files that extend each
            other.
    """
    return table_layout(read_extended(Path(path)), str(path))


def table_layout(mapping: Mapping[str, Any], source: str) -> TableKind:
    """A layout from its content; ``source`` is its file. Errors are those of :func:`load_table_layout`."""
    kind = TABLE_KINDS.find(mapping.get("kind", "results"), f"{source}: kind")
    settings = {key: value for key, value in mapping.items() if key != "kind"} | {"source": source}
    layout: TableKind = from_mapping(kind, settings, source)
    if isinstance(layout, TableLayout):
        ids = [column.id for column in layout.columns]
        for number, row in enumerate(layout.rows):
            for key in {*row.blank, *row.dash, *row.later} - {*ids}:
                raise UserError(f"{source}: rows[{number}]", f"no column '{key}'{suggestion(key, ids)}")
    return layout


def load_layout(path: str | Path) -> TableLayout:
    """Reads a layout of results; for errors see :func:`load_table_layout`."""
    layout = load_table_layout(path)
    if not isinstance(layout, TableLayout):
        raise UserError(path, "kind: this layout is not one of results", "build it with `sida table`")
    return layout


def expand(layout: TableLayout, runs: Mapping[str, SheetRow]) -> list[tuple[str, RowSpec]]:
    """Resolves ``each`` and ``pool_seeds`` of the rows by the sheet; returns rows with their keys.

    For ``each`` no match is an error unless the row is ``optional``, because the row would vanish silently.

    Raises:
        UserError: ``each`` without a match.
    """
    rows = []
    for number, row in enumerate(layout.rows):
        where = f"{layout.source}: rows[{number}]"
        if row.each is not None:
            if row.run is not None:
                raise UserError(where, "use only one of run and each")
            matches = matching(runs, row.each)
            if not matches and not row.optional:
                fault = f"no run of the sample sheet matches {dict(row.each)}"
                raise UserError(f"{where}.each", fault, "change it or make it optional")
            rows += [(f"{where}.each", dataclasses.replace(row, run=run.run, each=None)) for run in matches]
        else:
            if row.pool_seeds and row.run and row.run in runs:
                others = tuple(run for run in with_other_seeds(runs, row.run) if run != row.run)
                row = dataclasses.replace(row, pool=others, pool_seeds=False)
            rows.append((f"{where}.run", row))
    return rows
