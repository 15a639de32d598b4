"""Sample sheets: tab-separated files with one row per generator to measure."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sida.config.mapping import from_mapping, from_texts, load_spec
from sida.config.ranges import Count, Finite, Name, Natural, OneOf
from sida.errors import UserError
from sida.files.content_hash import FORMULA
from sida.files.text_files import MOST_LINES, check_amount, read_text
from sida.methods.registry import METHODS, is_method

#: Values of the column ``method`` for rows that are measured but not distilled here.
NOT_DISTILLED = ("data", "teacher", "external")


def methods() -> list[str]:
    """Values of the column ``method``, besides ``module:object``."""
    return [*NOT_DISTILLED, *METHODS]


@dataclass(frozen=True)
class Run:
    """A row of a sample sheet: one generator to measure; empty cells are ``None``.

    Attributes:
        run: Unique id; names files and targets.
        label: Name in tables and figures.
        method: ``data`` (resampled real images), ``teacher``, a method of :mod:`sida.methods`, ``module:object`` (a
            custom method), or ``external`` (a generator from outside or stored images).
        sampler: Name in the preset's samplers; empty for external functions and images.
        family: Group in tables.
        teacher: Id in the preset's teachers.
        init: Run whose generator SiD2A (or a restarted SiD) starts from.
        alpha: α of the SiD loss.
        recipe: Name in the preset's recipes, or ``FILE/NAME`` of ``recipes/``.
        seed: Own seed (default the preset's).
        checkpoint: Asset id, path or address (``https://``, ``hf://``) of a network; for external without a sampler,
            ``module:function`` or stored images.
        dataset: Name of a data set of the preset or of ``config/datasets.yaml`` (default the preset's).
        protocol: Protocol file (default: the preset's).
        guide: Guiding network (a teacher of the preset, an asset id or a path) if the sampler, or the recipe of a
            distilled row, has guidance.
        nfe: Network evaluations per image of an external generator.
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
    guide: str | None = None
    nfe: Count | None = None
    notes: str = ""

    @property
    def trained_here(self) -> bool:
        """Whether the workflow distils this generator."""
        return is_method(self.method) and self.checkpoint is None

    @property
    def without_network(self) -> bool:
        """Whether images come from the data set, a Python function or stored images, not from a network file."""
        return self.method == "data" or (self.method == "external" and self.sampler is None)


def read_runs(path: str | Path) -> list[Run]:
    """Reads and validates a sample sheet (tab-separated; lines starting with # are comments).

    A ``.json`` file is a spec of the workflow, whose key ``runs`` has the rows of a table or figure.

    Raises:
        UserError: Missing file, another encoding than UTF-8, unknown column, wrong value, or a run named twice (file
            and line are named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sample sheet; set 'runs' to a .tsv file")
    if path.suffix == ".json":
        rows = load_spec(str(path)).get("runs", [])
        if not isinstance(rows, list):
            raise UserError(f"{path}: runs: must be a list of rows; let the workflow write the spec again")
        return [from_mapping(Run, row, f"{path}: runs[{index}]") for index, row in enumerate(rows)]
    lines = list(_lines(path))
    if not lines:
        raise UserError(f"{path}: the sample sheet is empty; it needs a header line and one row per generator")
    where, header = lines[0]
    double = next((key for number, key in enumerate(header) if key in header[:number]), None)
    if double is not None:
        raise UserError(f"{where}: two columns are called '{double}'; remove or rename one")
    runs: dict[str, Run] = {}
    for where, cells in lines[1:]:
        if len(cells) > len(header):
            raise UserError(f"{where}: {len(cells)} cells but {len(header)} columns; separate cells by single tabs")
        cells_by_column = {key: cell for key, cell in zip(header, cells) if cell}
        run = from_texts(Run, cells_by_column, f"{where}:")
        # Runs are names of folders, and some file systems ignore case.
        other = runs.setdefault(run.run.lower(), run)
        if other is not run:
            also = "" if other.run == run.run else f", but for its case, as '{other.run}'"
            raise UserError(f"{where}: run '{run.run}' appears twice{also}; give each row its own id")
    return list(runs.values())


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """``FILE:LINE`` and cells of each line that is neither empty nor a comment."""
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
            raise UserError(f"{where}: {fault}; fix or shorten the cell") from None
        check_cells(cells, where)
        yield where, [cell.strip() for cell in cells]


def check_cells(cells: Iterable[str], where: str) -> None:
    """Refuses texts with invisible characters, and texts that a spreadsheet runs as formulas.

    Raises:
        UserError: A cell has such a text.
    """
    for cell in cells:
        hidden = next((character for character in cell if _hidden(character)), None)
        if hidden is not None:
            raise UserError(f"{where}: a cell holds a character without a picture (U+{ord(hidden):04X}); remove it")
        if FORMULA.match(cell):
            raise UserError(f"{where}: a spreadsheet would run '{cell[:40]}' as a formula; begin it with a letter")


def _hidden(character: str) -> bool:
    """Whether a character is a control, a line end, or a mark that changes the direction of text."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Zl", "Zp") or (kind == "Cf" and unicodedata.bidirectional(character)[-1:] in "EOI")
