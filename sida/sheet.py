"""Sample sheets: a row per generator to measure, tab-separated."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sida.config import from_mapping, from_texts, load_spec
from sida.errors import UserError
from sida.methods import METHODS, is_method
from sida.ranges import Count, Finite, Name, Natural, OneOf

#: Methods of rows that are measured and not distilled here.
NOT_DISTILLED = ("data", "teacher", "external")


def methods() -> list[str]:
    """What the column ``method`` may say, besides ``module:object``."""
    return [*NOT_DISTILLED, *METHODS]


@dataclass(frozen=True)
class Run:
    """A row of a sample sheet: one generator to measure; empty cells are ``None``.

    Attributes:
        run: Unique id; names files and targets.
        label: Name in tables and figures.
        method: ``data`` (resampled real images), ``teacher``, a method of :mod:`sida.methods`, ``module:object`` (a
            method of your own), or ``external`` (someone else's generator or stored images).
        sampler: Name in the preset's samplers; empty for external functions and images.
        family: Group in tables.
        teacher: Id in the preset's teachers.
        init: Run whose generator SiD2A (or a restarted SiD) starts from.
        alpha: α of the SiD loss.
        recipe: Name in the preset's recipes, or ``FILE/NAME`` of ``config/recipes``.
        seed: Own seed (default the preset's).
        checkpoint: Asset id or path of a network; for external without a sampler, ``module:function`` or stored images.
        dataset: Name of a data set of the preset or of ``config/datasets.yaml`` (default the preset's).
        protocol: Own protocol file (default the preset's).
        guide: Guiding network, where the sampler has guidance; in a row that is distilled, where its recipe has. A
            teacher of the preset, an asset id or a path.
        nfe: Network evaluations per image of an external generator.
        notes: For the reader of the sheet.
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
        """Whether the workflow distils this generator itself."""
        return is_method(self.method) and self.checkpoint is None

    @property
    def without_network(self) -> bool:
        """Whether images come from the data, someone's Python function or stored images, not from a network file."""
        return self.method == "data" or (self.method == "external" and self.sampler is None)


def read_runs(path: str | Path) -> list[Run]:
    """Reads and validates a sample sheet (tab-separated; lines starting with # are comments).

    A ``.json`` file is a spec of the workflow, which has the rows that a table or figure shows as ``runs``.

    Raises:
        UserError: Missing file, unknown column, wrong value, or a run named twice (file and line are named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sample sheet; set 'runs' to a .tsv file")
    if path.suffix == ".json":
        rows = load_spec(str(path)).get("runs", [])
        return [from_mapping(Run, row, f"{path}: runs[{index}]") for index, row in enumerate(rows)]
    numbered = [
        (number, line)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    lines = list(csv.reader((line for _, line in numbered), delimiter="\t"))
    if not lines:
        raise UserError(f"{path}: the sample sheet is empty; it needs a header line and one row per generator")
    header = lines[0]
    runs: list[Run] = []
    for (number, _), cells in zip(numbered[1:], lines[1:]):
        where = f"{path}:{number}"
        if len(cells) > len(header):
            raise UserError(f"{where}: {len(cells)} cells but {len(header)} columns; separate cells by single tabs")
        cells_by_column = {key: cell.strip() for key, cell in zip(header, cells) if cell.strip()}
        run = from_texts(Run, cells_by_column, f"{where}:")
        if any(run.run == other.run for other in runs):
            raise UserError(f"{where}: run '{run.run}' appears twice; give each row its own id")
        runs.append(run)
    return runs
