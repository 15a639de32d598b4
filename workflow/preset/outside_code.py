"""Code from outside the package that a preset's files name: found before anything of it runs."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.config.mapping import load_yaml
from sida.config.plugins import ALLOW, allowed, is_registered, refusal, source_file
from sida.config.ranges import names_object
from sida.config.resources import find
from sida.errors import UserError

#: Keys of presets, recipes, protocols and data sets, and columns of sheets, whose value may be ``module:object``.
_KEYS = {"callable", "class", "extractor", "kind", "method", "monitor"}
_COLUMNS = ("method", "checkpoint")


@dataclass(frozen=True)
class OutsideCode:
    """A name that a preset would import.

    Attributes:
        name: ``module:object``.
        where: File and key that name it first.
        source: File that would run; None where there is none.
        allowed: Whether the user permits it.
    """

    name: str
    where: str
    source: str | None
    allowed: bool


def outside_code(config: Mapping[str, Any], source: str, own: Sequence[Path] = ()) -> list[OutsideCode]:
    """Names from outside that a preset, its sheet, recipes, protocols and data sets give.

    Nothing is imported or checked: what is no preset has other faults, which are told elsewhere.

    Args:
        config: The preset's keys as they were read.
        source: Its file.
        own: Its folders.
    """
    found: dict[str, str] = {}
    for name, where in _named(config, source, list(own)):
        if names_object(name) and not is_registered(name):
            found.setdefault(name, where)
    return [OutsideCode(name, where, source_file(name), allowed(name)) for name, where in found.items()]


def check_code(config: Mapping[str, Any], source: str, own: Sequence[Path] = ()) -> None:
    """Refuses a preset that names code which the user has not allowed.

    Raises:
        UserError: With all such names, the files that would run, and how to allow them.
    """
    refused = [code for code in outside_code(config, source, own) if not code.allowed]
    if len(refused) == 1:
        raise UserError(f"{refused[0].where}: '{refused[0].name}' {refusal(refused[0].name)}")
    if refused:
        named = ", ".join(f"'{code.name}' ({code.source or 'no such file'})" for code in refused)
        raise UserError(
            f"{source}: names code from outside this package, which is not run because a file names it: {named}; "
            f"read it, and if you trust it, set {allowing(refused)}"
        )


def allowing(codes: Sequence[OutsideCode]) -> str:
    """The setting that allows some names."""
    return f"{ALLOW}={','.join(dict.fromkeys(code.name.partition(':')[0] for code in codes))}"


def outside_code_of(preset: Path) -> list[OutsideCode]:
    """The same of a preset's file."""
    return outside_code(load_yaml(preset), str(preset), [preset.parent])


def _named(config: Mapping[str, Any], source: str, own: list[Path]) -> Iterator[tuple[str, str]]:
    """Every value of a key or column that may name an object, with its place."""
    rows: list[tuple[str, dict[str, str]]] = []
    with _told_elsewhere():
        sheet = find("runs", str(config.get("runs")), own)
        own.append(sheet.parent)
        rows = [(f"{sheet}:{number}", row) for number, row in _rows(sheet)]
    for place, row in rows:
        yield from ((row.get(column, ""), f"{place}: {column}") for column in _COLUMNS)
    documents: list[tuple[str, Any]] = [(source, config)]
    for name in dict.fromkeys([config.get("protocol"), *(row.get("protocol") for _, row in rows)]):
        with _told_elsewhere():
            path = find("protocols", str(name), own)
            documents.append((str(path), load_yaml(path)))
    for recipe in dict.fromkeys(row.get("recipe", "") for _, row in rows):
        file, _, name = recipe.partition("/")
        with _told_elsewhere():
            path = find("recipes", file, own)
            documents.append((f"{path}: {name}", load_yaml(path)[name]))
    # Data sets of config/datasets.yaml, where something names them.
    shared, path = {}, Path()
    with _told_elsewhere():
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
def _told_elsewhere() -> Iterator[None]:
    with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError, csv.Error):
        yield


def _rows(sheet: Path) -> Iterator[tuple[int, dict[str, str]]]:
    lines = sheet.read_text(encoding="utf-8").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    table = list(csv.reader((line for _, line in numbered), delimiter="\t"))
    for (number, _), cells in zip(numbered[1:], table[1:]):
        yield number, {key: cell.strip() for key, cell in zip(table[0], cells)}


def _texts(value: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Texts of a document by their key, with their place."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            here = f"{where}.{key}" if ": " in where else f"{where}: {key}"
            if isinstance(item, str):
                yield str(key), item, here
            else:
                yield from _texts(item, here)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]")
