"""Sample sheets: a row per generator to measure, tab-separated, checked against a schema."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.methods import is_method
from sida.resources import SCHEMAS
from sida.schema import validated


@dataclass(frozen=True)
class Run:
    """A row of the sample sheet: one generator to measure; empty cells are ``None``."""

    run: str
    label: str
    method: str
    sampler: str | None = None
    family: str = ""
    teacher: str | None = None
    init: str | None = None
    alpha: float | None = None
    recipe: str | None = None
    seed: int | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    protocol: str | None = None
    guide: str | None = None
    nfe: int | None = None
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

    Raises:
        UserError: Missing file, unknown column, wrong value, or a run named twice (file and line are named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sample sheet; set 'runs' to a .tsv file")
    numbered = [
        (number, line)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    rows = list(csv.reader((line for _, line in numbered), delimiter="\t"))
    if not rows:
        raise UserError(f"{path}: the sample sheet is empty; it needs a header line and one row per generator")
    header = rows[0]
    runs: list[Run] = []
    for (number, _), cells in zip(numbered[1:], rows[1:]):
        where = f"{path}:{number}"
        if len(cells) > len(header):
            raise UserError(f"{where}: {len(cells)} cells but {len(header)} columns; separate cells by single tabs")
        record: dict[str, Any] = {key: cell.strip() for key, cell in zip(header, cells) if cell.strip()}
        for key, convert in (("alpha", float), ("seed", int), ("nfe", int)):
            if key in record:
                try:
                    record[key] = convert(record[key])
                except ValueError:
                    raise UserError(f"{where}: {key}: must be a number, got '{record[key]}'") from None
        run = Run(**validated(record, SCHEMAS / "runs.schema.yaml", where))
        if any(run.run == other.run for other in runs):
            raise UserError(f"{where}: run '{run.run}' appears twice; give each row its own id")
        runs.append(run)
    return runs
