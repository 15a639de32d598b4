"""A table as data: columns, rows of cells, notes and records of the CSV. Renderers read only this data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from eval.results.published import AGREEMENT_MARKS, AgreementOutcome, Published
from sida.config.settings import Count

#: Fields of a table's records, which are the columns of its CSV: one record per number cell, in full precision and with
#: its provenance.
RECORD_FIELDS = (
    "table", "mode", "row", "family", "model", "column", "metric", "direction", "nfe",
    "run", "measured", "measured_std", "measured_lowest", "trials", "training_seeds", "kept_at", "measured_bold",
    "published_id", "published", "published_std", "published_bold", "published_source", "published_literal",
    "difference", "tolerance", "agreement", "not_compared",
    "effect", "effect_low", "effect_high", "effect_df", "effect_standardised", "effect_against",
    "n", "seed_first", "seed_last", "protocol", "settings", "classes", "resolution",
    "reference_sha256", "extractor_sha256", "network_sha256", "device", "code_version", "date",
)  # fmt: skip

CellKind = Literal["text", "published", "measured", "difference", "missing", "blank", "dash"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Printed text; for numbers the value without its spread.
        kind: Origin of the content. A cell is *either* published *or* measured, never both.
        spread: Number after ``±``.
        bold: Whether the value is the best of the column by the layout's rule.
        agreement: For a difference: whether the numbers agree, see :mod:`eval.results.published`.
        columns: Number of columns that the cell spans.
    """

    text: str = ""
    kind: CellKind = "text"
    spread: str | None = None
    bold: bool = False
    agreement: AgreementOutcome | None = None
    columns: Count = 1

    @property
    def plain(self) -> str:
        """The cell as unformatted text."""
        if self.kind == "dash":
            return "–"
        if self.kind == "missing":
            return self.text or "not measured"
        text = f"{self.text} ± {self.spread}" if self.spread else self.text
        return f"{text} {AGREEMENT_MARKS[self.agreement]}" if self.agreement else text


@dataclass(frozen=True)
class Column:
    """A column: its heading with the direction's arrow, and an upper heading shared by neighbours.

    ``name`` marks the column with the names of rows; narrow screens keep it in view.
    """

    head: str
    direction: Literal["lower", "higher"] | None = None
    number: bool = False
    group: str = ""
    name: bool = False

    @property
    def title(self) -> str:
        """Heading with ↓ (lower is better) or ↑ (higher is better)."""
        return self.head + {"lower": " ↓", "higher": " ↑", None: ""}[self.direction]


@dataclass(frozen=True)
class Row:
    """A body row; ``rule`` draws a line above it (a new family begins), ``part`` continues the row above."""

    cells: tuple[Cell, ...]
    rule: bool = False
    part: bool = False

    @property
    def by_column(self) -> list[Cell]:
        """A cell for each column: a cell that spans several is followed by empty ones."""
        return [filled for cell in self.cells for filled in [cell, *[Cell()] * (cell.columns - 1)]]


def published_record(number: Published) -> dict[str, Any]:
    """Fields of a record about the published number of a cell."""
    return {
        "published_id": number.id,
        "published": number.text,
        "published_std": number.std,
        "published_source": number.source,
        "published_literal": number.literal,
    }


@dataclass(frozen=True)
class Table:
    r"""A finished table; with ``cite`` its LaTeX has ``\cite`` in labels."""

    name: str
    title: str
    caption: str
    mode: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    number: int | str | None = None
    records: tuple[Mapping[str, Any], ...] = ()
    cite: bool = False

    @property
    def grouped(self) -> bool:
        """Whether any column has an upper heading."""
        return any(column.group for column in self.columns)

    @property
    def groups(self) -> list[tuple[str, list[Column]]]:
        """Upper headings from left to right, each with its columns."""
        return [(name, list(columns)) for name, columns in groupby(self.columns, key=lambda column: column.group)]

    def placed(self, row: Row) -> list[tuple[Column, Cell]]:
        """Cells of a row, each with the first column that it spans."""
        places = [sum(cell.columns for cell in row.cells[:number]) for number in range(len(row.cells))]
        return [(self.columns[place], cell) for place, cell in zip(places, row.cells)]
