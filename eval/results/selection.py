"""Layouts, claims and experiments as YAML: files that extend each other, listed entries, and rows that they choose."""

from __future__ import annotations

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

#: As a condition on the column ``method``: any method of one's own, named ``module:object``.
OWN = "own"


@dataclass(frozen=True)
class Needs:
    """Rows of the sheet and studies that a table or figure shows.

    Attributes:
        measured: Rows whose measurements are shown.
        networks: Rows whose network or training log is read.
        analytic: Whether the analytic study is shown.
        barriers: Whether the barriers between these networks and their teachers' are shown.
        sampled: Whether images of these networks are drawn.
        settings: By row the settings that are shown; None where no row's settings are.
    """

    measured: Collection[str]
    networks: Collection[str]
    analytic: bool = False
    barriers: bool = False
    sampled: bool = False
    settings: Mapping[str, Collection[str]] | None = None


def read_extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping whose ``extends`` names the file that gives every key it does not set itself.

    That file is a neighbour; or, for a layout in a preset's own folder, one of ``config``, also of the same name.

    Raises:
        UserError: Missing file, not a mapping, or files that extend each other.
    """
    if path in seen:
        raise UserError(f"{path}: extends: goes in a circle; remove one of them")
    mapping = load_yaml(path)
    base = mapping.pop("extends", None)
    if base is None:
        return mapping
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: must be the name of a layout file beside this one or in config")
    neighbour = path.parent / base
    if path.parent.name in ("tables", "figures") and (neighbour == path or not neighbour.is_file()):
        neighbour = find(path.parent.name, Path(base).stem, where=f"{path}: extends")
    return read_extended(neighbour, (*seen, path)) | mapping


def listed_entries(path: str | Path, kind: str, keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of the list ``<kind>s`` of a YAML file, each with its place for messages.

    Args:
        path: YAML file.
        kind: What an entry is: ``claim``.
        keys: The keys that an entry must have, in words.

    Yields:
        Place (file, number, id) and settings of an entry.

    Raises:
        UserError: Missing file, no list, an entry that is no mapping, or an id used twice.
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
    """The value of a column of the sheet from text, as conditions hold it.

    Raises:
        UserError: Not a column that conditions may name, or not a number where it holds numbers.
    """
    if column not in SELECTABLE:
        raise UserError(f"the sample sheet has no column '{column}'{suggestion(column, SELECTABLE)}")
    try:
        return float(text) if column == "alpha" else int(text) if column == "seed" else text
    except ValueError:
        raise UserError(f"{column} must be a number, got '{text}'") from None


def matching(runs: Mapping[str, Run], conditions: Mapping[str, Any]) -> list[Run]:
    """Runs of the sample sheet whose columns equal the conditions; a list means any of its values, and the method
    ``own`` any that is named ``module:object``.
    """

    def fits(run: Run) -> bool:
        return all(
            _meets(run, key, wanted if isinstance(wanted, list) else [wanted]) for key, wanted in conditions.items()
        )

    return [run for run in runs.values() if fits(run)]


def _meets(run: Run, column: str, wanted: list[Any]) -> bool:
    own = column == "method" and OWN in wanted and names_object(run.method)
    return own or getattr(run, column) in wanted
