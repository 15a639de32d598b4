"""Lines of a stored study: records of logs as CSV, and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.files.atomic import read_jsonl

_TICK = ("nimg", "img_per_s", "memory_mb", "memory_reserved_mb", "seconds")
_BY_NETWORK = "weight_rms"


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a log; none where there is no log, as of rows without a training."""
    return read_jsonl(path) if path.is_file() else []


def evaluation(record: Mapping[str, Any]) -> dict[str, str]:
    """An evaluation's numbers without its time; lists of several trials as numbers with spaces between."""
    kept = {}
    for key, value in record.items():
        trials = record.get(f"{key.removesuffix('_std').removesuffix('_trials')}_trials", ())
        if key == "seconds" or (key.endswith(("_std", "_trials")) and len(trials) < 2):
            continue
        kept[key] = " ".join(map(_short, value)) if isinstance(value, list) else _short(value)
    return kept


def tick(record: Mapping[str, Any]) -> dict[str, str]:
    """Progress, speed, memory and size of the weights of a record of training."""
    numbers = {key: record[key] for key in _TICK if key in record}
    numbers |= {f"{_BY_NETWORK}.{name}": value for name, value in record.get(_BY_NETWORK, {}).items()}
    return {key: _short(value) for key, value in numbers.items() if value is not None}


def grouped(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by network in a mapping of their own, as logs have them."""
    prefix = f"{_BY_NETWORK}."
    found = {key: value for key, value in numbers.items() if not key.startswith(prefix)}
    by_network = {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}
    return found | ({_BY_NETWORK: by_network} if by_network else {})


def _short(value: float | str | None) -> str:
    """Logs hold null for what was not a number, and the name of the metric that selects."""
    if value is None:
        return "nan"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def values_of(key: str, text: str) -> Any:
    """What a cell of a stored log holds: a number, None for what was not one, a name, or a list of trials."""
    values = [_value(word) for word in text.split(" ")]
    return values if key.endswith("_trials") else values[0] if len(values) == 1 else text


def _value(word: str) -> int | float | str | None:
    if word == "nan":
        return None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def plain_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV, without a hash; their columns, where none are given, in the order in which they first appear."""
    text = io.StringIO(newline="")
    names = columns or list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a stored file by column."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
