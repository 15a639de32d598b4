"""The papers' numbers (``results/published/*.csv``): exact strings with their sources, never converted in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sida.errors import UserError, suggestion
from sida.resources import PUBLISHED
from sida.text_files import read_csv


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        text: The value exactly as printed, trailing zeros included.
        std: The printed standard deviation or an empty string.
        own: Whether the authors of the paper that prints it measured it themselves.
    """

    id: str
    source: str
    row_label: str
    method: str
    dataset: str
    model_size: str
    nfe: str
    metric: str
    text: str
    std: str
    unit: str
    own: bool
    notes: str
    literal: str

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text.replace(",", ""))

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit: what rounding may have hidden."""
        decimals = len(self.text.partition(".")[2])
        return 0.5 * 10.0**-decimals


def load_published(folder: str | Path | None = None) -> dict[str, Published]:
    """Reads every CSV of the folder of published numbers, by id.

    Raises:
        UserError: No such folder, a missing column, or an id used twice.
    """
    folder = Path(folder or PUBLISHED)
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: no published numbers (*.csv) there")
    numbers: dict[str, Published] = {}
    for path in files:
        for line, record in read_csv(path)[1]:
            try:
                number = _published(record)
            except KeyError as error:
                raise UserError(f"{path}:{line}: column {error} is missing") from None
            if number.id in numbers:
                raise UserError(f"{path}:{line}: id '{number.id}' occurs twice; ids must be unique")
            numbers[number.id] = number
    return numbers


def published_number(numbers: Mapping[str, Published], key: str, where: str) -> Published:
    """Looks an id up.

    Raises:
        UserError: Unknown id; ``where`` names file and key.
    """
    if key not in numbers:
        raise UserError(f"{where}: no published number '{key}' in results/published{suggestion(key, numbers)}")
    return numbers[key]


def _published(record: Mapping[str, str]) -> Published:
    return Published(
        id=record["id"],
        source=record["source"],
        row_label=record["row_label"],
        method=record["method"],
        dataset=record["dataset"],
        model_size=record["model_size"],
        nfe=record["nfe"],
        metric=record["metric"],
        text=record["value"],
        std=record["std"],
        unit=record["unit"],
        own=record["measured_by_authors"] == "true",
        notes=record["notes"],
        literal=record["literal"],
    )
