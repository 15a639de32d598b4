"""A table as data: columns, rows of cells, notes and records of the CSV. Renderers read only this data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sida.eval.results.numbers import AGREEMENT_MARKS, AgreementOutcome
from sida.eval.results.published import Published

#: Fields of a table's records, which are the columns of its CSV: one record per number cell, in full precision and with
#: its provenance.
RECORD_FIELDS = (
    "table", "mode", "row", "family", "model", "column", "metric", "direction", "nfe",
    "run", "measured", "measured_std", "measured_lowest", "trials", "training_seeds", "kept_at", "measured_rank",
    "published_id", "published", "published_std", "published_rank", "published_source", "published_literal",
    "difference", "tolerance", "agreement", "not_compared",
    "n", "seed_first", "seed_last", "protocol", "settings", "classes", "resolution",
    "reference_sha256", "extractor_sha256", "network_sha256", "device", "code_version", "date",
)  # fmt: skip

#: Rank of a value: the best of its column, or level with it, which does not beat it beyond noise and retraining.
Rank = Literal["best", "level"]
LEVEL_MARK = "≈"

CellKind = Literal["text", "published", "measured", "difference", "missing", "blank", "dash"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Printed text; for numbers the value without its spread.
        kind: Origin of the content. A cell is *either* published *or* measured, never both.
        spread: Number after ``±``.
        rank: Rank of the value in its column by the layout's bold rule.
        mark: Sign of a note about networks or images that the generator was exposed to.
        agreement: For a difference: whether the numbers agree, see :mod:`sida.eval.results.numbers`.
    """

    text: str = ""
    kind: CellKind = "text"
    spread: str | None = None
    rank: Rank | None = None
    agreement: AgreementOutcome | None = None
    mark: str = ""

    @property
    def bold(self) -> bool:
        """Whether the value is the best of its column."""
        return self.rank == "best"

    @property
    def plain(self) -> str:
        """The cell as unformatted text."""
        if self.kind == "dash":
            return "–"
        if self.kind == "missing":
            return self.text or "not measured"
        text = f"{self.text} ± {self.spread}" if self.spread else self.text
        text += f" {LEVEL_MARK}" if self.rank == "level" else ""
        text += f" {self.mark}" if self.mark else ""
        return f"{text} {AGREEMENT_MARKS[self.agreement]}" if self.agreement else text


BLANK, DASH = Cell(kind="blank"), Cell(kind="dash")


@dataclass(frozen=True)
class Column:
    """A column with its heading.

    Attributes:
        name: Whether the column has the names of rows, which narrow screens keep in view.
        about: Whether the column says more about the rows, such as their family; narrow screens show it below the name.
    """

    head: str
    direction: Literal["lower", "higher"] | None = None
    number: bool = False
    name: bool = False
    about: bool = False

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
    r"""A finished table.

    Attributes:
        cite: Whether its LaTeX has ``\cite`` in labels.
        cited: Keys of further entries that the table cites: for rows that were measured by this suite and added.
    """

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
    cited: tuple[str, ...] = ()
