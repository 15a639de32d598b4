"""Sample sheets: tab-separated files with one row per generator to measure."""

from __future__ import annotations

import csv
import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sida.config.feature_networks import UNKNOWN
from sida.config.registries import missing_plugins
from sida.config.settings import (
    Count,
    Finite,
    Name,
    Natural,
    OneOf,
    from_mapping,
    from_texts,
    load_spec,
)
from sida.errors import UserError
from sida.eval.results.csv_files import FORMULA
from sida.eval.results.identity import read_exposure
from sida.eval.results.measurements import Measurement
from sida.files.text_files import MOST_LINES, check_amount, first_double, read_text
from sida.methods.method import Exposure
from sida.methods.registry import METHODS

#: Values of the column ``method`` for rows that are measured but not distilled here.
NOT_DISTILLED = ("data", "teacher", "external")


def methods() -> list[str]:
    """Values of the column ``method``, besides ``module:object``, with methods of plugins that are not here."""
    return [*NOT_DISTILLED, *METHODS, *missing_plugins("methods")]


@dataclass(frozen=True)
class SheetRow:
    """A row of a sample sheet: one generator to measure; empty cells are ``None``.

    Attributes:
        run: Unique id; names files and targets.
        label: Name in tables and figures.
        method: ``data`` (resampled real images), ``teacher``, a method of :mod:`sida.methods`, ``module:object`` (a
            custom method), or ``external`` (a generator from outside or stored images).
        sampler: Name in the preset's samplers; empty for external functions and images.
        family: Group in tables.
        teacher: Id in the preset's teachers.
        init: Run whose generator SiD²A (or a restarted SiD) starts from.
        alpha: α of the SiD loss.
        recipe: Name in the preset's recipes, or ``FILE/NAME`` of ``recipes/``.
        seed: Own seed (default the preset's).
        checkpoint: Asset id, path or address (``https://``, ``hf://``) of a network; for external without a sampler,
            ``module:function`` or stored images.
        dataset: Name of a data set of the preset or of ``config/datasets.yaml`` (default the preset's).
        protocol: Protocol file (default: the preset's).
        second_protocol: Second protocol, under which the row's generator is measured, too, as ``<run>.<protocol>``.
        guide: Guiding network (a teacher of the preset, an asset id or a path) if the sampler, or the recipe of a
            distilled row, has guidance; ``null`` is the guided network itself without a class.
        nfe: Network evaluations per image of an external generator.
        saw: Networks of its exposure, e.g. ``loss:inception choice:inception`` (:mod:`sida.eval.results.identity`),
            ``none`` or ``unknown``; empty takes the words of the method, and is unknown for a generator from outside.
        notes: Notes for readers of the sheet.
    """

    run: Name
    label: str
    method: Annotated[str, OneOf(methods, or_object=True)]
    sampler: str | None = None
    family: str = ""
    teacher: str | None = None
    init: str | None = None
    alpha: Finite | None = None
    recipe: str | None = None
    seed: Natural | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    protocol: str | None = None
    second_protocol: str | None = None
    guide: str | None = None
    nfe: Count | None = None
    saw: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if self.saw is not None:
            read_exposure(self.saw)

    @property
    def cells(self) -> dict[str, Any]:
        """Cells that are not empty, by column."""
        return {key: value for key, value in vars(self).items() if value not in (None, "")}

    @property
    def trained_here(self) -> bool:
        """Whether the workflow distils a generator for this row."""
        return self.method not in NOT_DISTILLED and self.checkpoint is None and not self.second

    @property
    def exposure(self) -> Exposure | None:
        """Networks of its exposure; None if unknown. A cell of the sheet adds to the words of a known method."""
        own = None if self.saw is None else read_exposure(self.saw)
        if self.saw == UNKNOWN:
            return None
        if self.method in ("data", "teacher"):
            return own or Exposure()
        official = official_exposure(self.method)
        if official is None:
            return own
        # Only released files were chosen as the authors choose; the cell of a method with optional judges names them.
        choice = () if self.trained_here else official.choice
        judges = () if own is not None and own.loss and METHODS[self.method].has_judges else official.loss
        return Exposure(judges, official.start, choice) | (own or Exposure())

    @property
    def second(self) -> bool:
        """Whether this row is the second measurement of another; see :meth:`under_second`."""
        return self.second_protocol is not None and self.second_protocol == self.protocol

    @property
    def first(self) -> str:
        """Run whose generator is measured: another row's for a second measurement."""
        return self.run.removesuffix(f".{Path(str(self.protocol)).stem}") if self.second else self.run

    def under_second(self) -> SheetRow:
        """The second measurement of this row's generator; conditions on columns other than ``run`` do not match it."""
        return dataclasses.replace(
            self, run=f"{self.run}.{Path(str(self.second_protocol)).stem}", protocol=self.second_protocol
        )

    @property
    def without_network(self) -> bool:
        """Whether images come from the data set, a Python function or stored images, not from a network file."""
        return self.method == "data" or (self.method == "external" and self.sampler is None)


def read_runs(path: str | Path) -> list[SheetRow]:
    """Reads and validates a sample sheet (tab-separated; lines starting with # are comments).

    A ``.json`` file is a spec of the workflow, whose key ``runs`` has the rows of a table or figure.

    Raises:
        UserError: Missing file, another encoding than UTF-8, unknown column, wrong value, or a run named twice (file
            and line are named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such sample sheet", "set 'runs' to a .tsv file")
    if path.suffix == ".json":
        rows = load_spec(str(path)).get("runs", [])
        if not isinstance(rows, list):
            raise UserError(path, "runs: must be a list of rows", "let the workflow write the spec again")
        return [from_mapping(SheetRow, row, f"{path}: runs[{index}]") for index, row in enumerate(rows)]
    lines = list(_lines(path))
    if not lines:
        raise UserError(path, "the sample sheet is empty", "it needs a header line and one row per generator")
    where, header = lines[0]
    if (double := first_double(header)) is not None:
        raise UserError(where, f"two columns are called '{double}'", "remove or rename one")
    runs: dict[str, SheetRow] = {}
    for where, cells in lines[1:]:
        if len(cells) > len(header):
            raise UserError(where, f"{len(cells)} cells but {len(header)} columns", "separate cells by single tabs")
        cells_by_column = {key: cell for key, cell in zip(header, cells) if cell}
        run = from_texts(SheetRow, cells_by_column, f"{where}:")
        # Runs are names of folders, and some file systems ignore case.
        other = runs.setdefault(run.run.lower(), run)
        if other is not run:
            differing = "" if other.run == run.run else f", but for its case, as '{other.run}'"
            raise UserError(where, f"run '{run.run}' appears twice{differing}", "give each row its own id")
    return list(runs.values())


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """``FILE:LINE`` and cells, up to the last filled one, of each line that is neither empty nor a comment."""
    text = read_text(path)
    check_amount(text, str(path), "\n", MOST_LINES, "lines")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        try:
            cells = next(csv.reader([line], delimiter="\t", strict=True))
        except csv.Error as error:
            fault = "a quotation mark is not closed" if "unexpected end" in str(error) else str(error)
            raise UserError(where, fault, "fix or shorten the cell") from None
        check_cells(cells, where)
        cells = [cell.strip() for cell in cells]
        # Spreadsheets write tabs behind the last filled cell.
        while cells and not cells[-1]:
            del cells[-1]
        yield where, cells


def check_cells(cells: Iterable[str], where: str) -> None:
    """Refuses texts with invisible characters, and texts that a spreadsheet runs as formulas.

    Raises:
        UserError: A cell has such a text.
    """
    for cell in cells:
        invisible = next((character for character in cell if _is_hidden(character)), None)
        if invisible is not None:
            raise UserError(where, f"a cell holds an invisible character (U+{ord(invisible):04X})", "remove it")
        if FORMULA.match(cell):
            raise UserError(where, f"a spreadsheet would run '{cell[:40]}' as a formula", "begin it with a letter")


def _is_hidden(character: str) -> bool:
    """Whether a character is a control, a line end, or a mark that changes the direction of text."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Zl", "Zp") or (kind == "Cf" and unicodedata.bidirectional(character)[-1:] in "EOI")


def official_exposure(name: str) -> Exposure | None:
    """Networks that a method of this package is exposed to; None if unknown."""
    return METHODS[name].exposure if name in METHODS else None


def exposure_of(measured: Measurement, row: SheetRow | None) -> Exposure | None:
    """Networks that a measured generator was exposed to, by its record and its row; None if unknown.

    A record that says ``unknown`` has a part of unknown origin, on which only the words of the sheet decide.
    """
    if measured.saw.strip() == UNKNOWN and (row is None or row.saw is None):
        return None
    of_record = read_exposure(measured.saw)
    of_row = (row or SheetRow(measured.run, "", measured.method)).exposure
    return of_row if of_record is None else of_record if of_row is None else of_record | of_row
