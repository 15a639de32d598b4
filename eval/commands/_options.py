"""Options of several verbs: ``KEY=VALUE`` pairs, ranges, conditions on the sample sheet, output files."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.cli.arguments import existing
from sida.errors import UserError, suggestion

_WORDS = {"true": True, "false": False, "null": None}


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Parses pairs: ``["edm=a.npz"]`` gives ``{"edm": "a.npz"}``.

    Raises:
        UserError: A text without ``=``.
    """
    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UserError(option, f"must be KEY=VALUE, got '{text}'")
        result[key] = value
    return result


def extractor_options(texts: Sequence[str], option: str = "--extractor-option") -> dict[str, dict[str, Any]]:
    """Parses options: ``["inception.path=x.pt"]`` gives ``{"inception": {"path": "x.pt"}}``; reads true, false, null.

    Raises:
        UserError: Not of that form.
    """
    result: dict[str, dict[str, Any]] = {}
    for key, value in pairs(texts, option).items():
        name, dot, setting = key.rpartition(".")
        if not dot:
            raise UserError(option, f"must be NAME.KEY=VALUE, got '{key}={value}'")
        result.setdefault(name, {})[setting] = _WORDS.get(value, value)
    return result


def check_extractors(options: Mapping[str, Any], used: Iterable[str], option: str = "--extractor-option") -> None:
    """Refuses options of a feature network that is not used: a misspelt name would have no effect and no error.

    Raises:
        UserError: An option names an unused network.
    """
    names = list(used)
    for name in options:
        if name not in names:
            raise UserError(option, f"no feature network '{name}' is used here{suggestion(name, names)}")


def check_output(path: str | None, option: str, suffix: str | None = None) -> None:
    """Refuses an output file that cannot be written, before the computation; None is no file.

    Raises:
        UserError: A folder, a file in place of a parent folder, or another suffix.
    """
    if path is None:
        return
    if suffix is not None and Path(path).suffix != suffix:
        raise UserError(f"{option} {path}", f"must end in {suffix}, the format it is written in")
    if Path(path).is_dir():
        raise UserError(f"{option} {path}", "is a folder", "give the name of a file")
    parent = next(p for p in Path(path).absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{option} {path}", f"cannot be written in {parent}", "choose another place")


def extraction_arguments(parser: argparse.ArgumentParser, sampled: bool = False) -> None:
    """Adds the options of verbs that run one extractor over a set of images, or draw a teacher's (``sampled``)."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", metavar="JSON", help="data-set spec or file")
    what.add_argument(
        "--images", type=existing("--images", pictures=True), metavar="PATH", help="folder, .zip, .tar, .npz or .npy"
    )
    if sampled:
        what.add_argument("--spec", metavar="JSON", help="teacher, protocol and data set: samples of a teacher")
    parser.add_argument("--extractor", required=not sampled, help="feature network")
    parser.add_argument("--extractor-option", action="append", default=[], metavar="NAME.KEY=VALUE")
    parser.add_argument("--allow-tf32", action="store_true", help="allow TF32, like a protocol's allow_tf32")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--out", required=True, metavar="FILE", help="safetensors file to write")


def extraction_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`extraction_arguments` as arguments of :mod:`eval.measuring.extract`."""
    given = extractor_options(args.extractor_option)
    check_extractors(given, [args.extractor])
    options = given.get(args.extractor)
    names = ("out", "extractor", "dataset", "images", "allow_tf32", "device")
    return {"options": options} | {name: getattr(args, name) for name in names}


def parse_scope(conditions: Sequence[str]) -> dict[str, object]:
    """Parses conditions on the sample sheet: ``["dataset=digits"]`` gives ``{"dataset": "digits"}``.

    Raises:
        UserError: Not of that form, or not a column of the sheet.
    """
    from eval.results.sheet import SELECTABLE, parse_condition

    scope: dict[str, object] = {}
    for condition in conditions:
        key, sign, value = condition.partition("=")
        if not sign or key not in SELECTABLE:
            known = suggestion(key, SELECTABLE)
            raise UserError(f"--scope {condition}", f"give COLUMN=VALUE with a column of the sheet{known}")
        try:
            scope[key] = parse_condition(key, value)
        except UserError as error:
            raise UserError(f"--scope {condition}", error) from None
    return scope


def parse_trials(text: str | None, count: int) -> list[int]:
    """Parses trial numbers: ``"0-9"``, ``"3"`` or ``"0,2,5-7"``; None gives all ``count``.

    Raises:
        UserError: Not of that form, empty, or beyond ``count``.
    """
    if text is None:
        return list(range(count))
    trials: list[int] = []
    for part in text.split(","):
        first, last = parse_range(part, "--trials")
        trials += range(first, last + 1)
    if any(trial >= count for trial in trials):
        raise UserError("--trials", f"the protocol has the trials 0-{count - 1}, got '{text}'")
    return sorted(set(trials))


def parse_range(text: str, option: str) -> tuple[int, int]:
    """Parses a range: ``"3-7"`` gives (3, 7), ``"3"`` gives (3, 3).

    Raises:
        UserError: Not of that form, or backwards.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise UserError(option, f"must be a number or a range like 0-9, got '{text}'")
    return int(match[1]), int(match[2] or match[1])
