"""Reads layouts, claims and experiments from YAML: extended files, listed entries, and conditions on rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.results.sheet import Run
from sida.config.mapping import load_yaml
from sida.config.ranges import names_object
from sida.config.resources import find
from sida.errors import UserError, suggestion

#: Columns of the sample sheet that conditions may name.
SELECTABLE = ("run", "family", "label", "method", "teacher", "init", "alpha", "recipe", "sampler", "seed", "dataset")

#: Condition on the column ``method`` for any custom method, ``module:object``.
OWN = "own"


@dataclass(frozen=True)
class Needs:
    """Rows of the sheet and analyses that a table or figure needs.

    Attributes:
        measured: Rows whose measurements are shown.
        networks: Rows whose network or training log is read.
        analyses: Analyses that are shown, by their names in the preset, with their rows.
        sampled: Whether images of these networks are drawn.
        settings: Settings that are shown, by row; None if no settings are shown.
    """

    measured: Collection[str]
    networks: Collection[str]
    analyses: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)
    sampled: bool = False
    settings: Mapping[str, Collection[str]] | None = None


def read_extended(path: Path, seen: tuple[Path, ...] = (), beside: bool = False) -> dict[str, Any]:
    """Reads a YAML mapping; the file that ``extends`` names gives the keys that the mapping does not set.

    That file is in the same folder, or has the name of a file of ``config`` or of a study of the checkout.

    Args:
        path: The file.
        seen: Files that extend this one.
        beside: Whether ``extends`` may only name a file in the same folder.

    Raises:
        UserError: Missing file, not a mapping, or files that extend each other.
    """
    if path in seen:
        raise UserError(f"{path}: extends: goes in a circle; remove one of them")
    mapping = load_yaml(path)
    base = mapping.pop("extends", None)
    if base is None:
        return mapping
    if not isinstance(base, str) or (beside and Path(base).name != base):
        raise UserError(
            f"{path}: extends: must be the name of a file beside this one{'' if beside else ' or in config'}"
        )
    neighbour = path.parent / base
    if path.parent.name in ("tables", "figures", "protocols") and (neighbour == path or not neighbour.is_file()):
        neighbour = find(path.parent.name, Path(base).stem, where=f"{path}: extends")
    return read_extended(neighbour, (*seen, path), beside) | mapping


def listed_entries(path: str | Path, kind: str, keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the entries of the list ``<kind>s`` of a YAML file, with their place for messages.

    Args:
        path: YAML file.
        kind: Name of an entry, such as ``claim``.
        keys: Required keys of an entry, in words, for messages.

    Yields:
        Place (file, number, id) and settings of an entry.

    Raises:
        UserError: A missing file, no list, an entry that is no mapping, or an id used twice.
    """
    listed = load_yaml(path).get(f"{kind}s")
    if not isinstance(listed, list):
        raise UserError(f"{path}: key '{kind}s' must be a list of {kind}s")
    before: list[Any] = []
    for number, entry in enumerate(listed):
        where = f"{path}: {kind}s[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: must be a mapping with {keys}")
        where += f" ({entry.get('id')})"
        if "id" in entry and entry["id"] in before:
            raise UserError(f"{where}.id: occurs twice; give each {kind} its own id")
        before.append(entry.get("id"))
        yield where, entry


def parse_condition(column: str, text: str) -> float | int | str:
    """Parses the value of a condition on a column of the sheet.

    Raises:
        UserError: An unknown column, or no number for a numeric column.
    """
    if column not in SELECTABLE:
        raise UserError(f"the sample sheet has no column '{column}'{suggestion(column, SELECTABLE)}")
    try:
        return float(text) if column == "alpha" else int(text) if column == "seed" else text
    except ValueError:
        raise UserError(f"{column} must be a number, got '{text}'") from None


def with_other_seeds(runs: Mapping[str, Run], name: str) -> list[str]:
    """Names of a run and the runs that differ from it in the training seed only (and in the seed of their start)."""
    settings = _without_seed(runs[name])
    return [row.run for row in runs.values() if _without_seed(row) == settings]


def _without_seed(row: Run) -> Run:
    return dataclasses.replace(row, run="", seed=None, init=None, notes="")


def matching(runs: Mapping[str, Run], conditions: Mapping[str, Any]) -> list[Run]:
    """Runs of the sample sheet that meet conditions on columns.

    A list of values means any of them; the method ``own`` means any custom method (``module:object``).
    """

    def fits(run: Run) -> bool:
        return all(
            _meets(run, key, wanted if isinstance(wanted, list) else [wanted]) for key, wanted in conditions.items()
        )

    return [run for run in runs.values() if fits(run)]


def _meets(run: Run, column: str, wanted: list[Any]) -> bool:
    own = column == "method" and OWN in wanted and names_object(run.method)
    return own or getattr(run, column) in wanted
