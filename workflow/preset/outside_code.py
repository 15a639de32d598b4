"""Finds code from outside the package that a preset's files name, before any of it runs."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.results.sheet import read_extended
from sida.config.plugins import ALLOW, allowed, is_registered, refusal, source_file
from sida.config.resources import find
from sida.config.settings import load_yaml, names_object
from sida.errors import UserError
from sida.files.text_files import read_text
from workflow.preset.files import read_preset

#: Keys of presets, recipes, protocols and data sets, and columns of sheets, with values ``module:object``.
_KEYS = {"callable", "class", "extractor", "judges", "kind", "method", "monitor"}
_COLUMNS = ("method", "checkpoint")


@dataclass(frozen=True)
class OutsideCode:
    """A name that a preset would import.

    Attributes:
        name: ``module:object``.
        where: File and key of the first mention.
        source: File that would run; None if there is none.
        allowed: Whether the user permits the code.
    """

    name: str
    where: str
    source: str | None
    allowed: bool


def outside_code(config: Mapping[str, Any], source: str, own: Sequence[Path] = ()) -> list[OutsideCode]:
    """Finds names of outside code in a preset, its sheet, recipes, protocols and data sets.

    Nothing is imported, and other faults of these files are ignored; later checks report them.

    Args:
        config: Keys of the preset's file.
        source: The preset's file.
        own: Folders of the preset.
    """
    found: dict[str, str] = {}
    for name, where in _named(config, source, list(own)):
        if names_object(name) and not is_registered(name):
            found.setdefault(name, where)
    return [OutsideCode(name, where, source_file(name), allowed(name)) for name, where in found.items()]


def check_code(config: Mapping[str, Any], source: str, own: Sequence[Path] = ()) -> None:
    """Refuses a preset that names code without the user's permission.

    Raises:
        UserError: There is such code; the message has the names, the files, and how to allow them.
    """
    refused = [code for code in outside_code(config, source, own) if not code.allowed]
    if len(refused) == 1:
        raise UserError(refused[0].where, f"'{refused[0].name}' {refusal(refused[0].name)}")
    if refused:
        named = ", ".join(f"'{code.name}' ({code.source or 'no such file'})" for code in refused)
        raise UserError(
            source,
            f"names code from outside this package, which is not run because a file names it: {named}",
            f"read it, and if you trust it, set {allowing(refused)}",
        )


def allowing(codes: Sequence[OutsideCode]) -> str:
    """Setting of the environment that allows names."""
    return f"{ALLOW}={','.join(dict.fromkeys(code.name.partition(':')[0] for code in codes))}"


def outside_code_of(preset: Path) -> list[OutsideCode]:
    """Finds names of outside code from a preset's file; see :func:`outside_code`."""
    return outside_code(*read_preset([preset]))


def _named(config: Mapping[str, Any], source: str, own: list[Path]) -> Iterator[tuple[str, str]]:
    """Yields values of keys and columns that may name an object, with their place."""
    rows: list[tuple[str, dict[str, str]]] = []
    with _faults_ignored():
        sheet = find("runs", str(config.get("runs")), own)
        own.append(sheet.parent)
        rows = [(f"{sheet}:{number}", row) for number, row in _rows(sheet)]
    for place, row in rows:
        yield from ((row.get(column, ""), f"{place}: {column}") for column in _COLUMNS)
    documents: list[tuple[str, Any]] = [(source, config)]
    protocols = [row.get(column, "") for _, row in rows for column in ("protocol", "second_protocol")]
    with _faults_ignored():
        protocols += map(str, dict(config.get("second_protocols", {})).values())
    for name in dict.fromkeys([str(config.get("protocol")), *protocols]):
        with _faults_ignored():
            path = find("protocols", name, own)
            documents.append((str(path), read_extended(path, beside=True)))
    for recipe in dict.fromkeys(row.get("recipe", "") for _, row in rows):
        file, _, name = recipe.partition("/")
        with _faults_ignored():
            path = find("recipes", file, own)
            documents.append((f"{path}: {name}", load_yaml(path)[name]))
    # Data sets of config/datasets.yaml that are used.
    shared, path = {}, Path()
    with _faults_ignored():
        path = find("", "datasets")
        shared = load_yaml(path)
    datasets = {row.get("dataset", "") for _, row in rows}
    while documents:
        place, document = documents.pop(0)
        for key, value, where in _texts(document, place):
            if key in _KEYS:
                yield value, where
            elif key == "dataset":
                datasets.add(value)
        if not documents:
            wanted = [name for name in shared if name in datasets]
            documents = [(f"{path}: {name}", shared.pop(name)) for name in wanted]


@contextlib.contextmanager
def _faults_ignored() -> Iterator[None]:
    with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError, csv.Error):
        yield


def _rows(sheet: Path) -> Iterator[tuple[int, dict[str, str]]]:
    lines = read_text(sheet).splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    table = list(csv.reader((line for _, line in numbered), delimiter="\t"))
    for (number, _), cells in zip(numbered[1:], table[1:]):
        yield number, {key: cell.strip() for key, cell in zip(table[0], cells)}


def _texts(value: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Yields key, text and place of all texts in a document."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            here = f"{where}.{key}" if ": " in where else f"{where}: {key}"
            if isinstance(item, str):
                yield str(key), item, here
            elif isinstance(item, (list, tuple)):
                for index, part in enumerate(item):
                    inner = f"{here}[{index}]"
                    yield from [(str(key), part, inner)] if isinstance(part, str) else _texts(part, inner)
            else:
                yield from _texts(item, here)
