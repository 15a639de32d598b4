"""Options of several verbs: ``KEY=VALUE`` pairs, ranges, output files."""

import argparse
import re
from collections.abc import Callable, Collection, Container, Sequence
from pathlib import Path
from typing import Any

from sida.cli.main import check_output_path
from sida.errors import UserError, suggestion


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


def extractor_options(texts: Sequence[str], used: Collection[str] | None = None) -> dict[str, dict[str, str]]:
    """Parses options: ``["inception.path=x.pt"]`` gives ``{"inception": {"path": "x.pt"}}``.

    Args:
        texts: Options of the command line.
        used: Feature networks that may have options; None if the caller checks the names.

    Raises:
        UserError: A text of another form, or an option of another feature network.
    """
    option = "--extractor-option"
    result: dict[str, dict[str, str]] = {}
    for key, value in pairs(texts, option).items():
        name, dot, setting = key.rpartition(".")
        if not dot:
            raise UserError(option, f"must be NAME.KEY=VALUE, got '{key}={value}'")
        if used is not None and name not in used:
            raise UserError(option, f"no feature network '{name}' is used here{suggestion(name, used)}")
        result.setdefault(name, {})[setting] = value
    return result


def output(option: str, *suffixes: str) -> Callable[[str], str]:
    """Parser of output files, which refuses a folder or a format that is not written before the heavy imports.

    Args:
        option: Option named in errors.
        *suffixes: Ends of names of the formats; none accepts any name.

    Raises:
        UserError: Raised by the parser for a folder or another end.
    """

    def parse(text: str) -> str:
        check_output_path(text, option)
        if suffixes and Path(text).suffix not in suffixes:
            raise UserError(f"{option} {text}", f"must end in {' or '.join(suffixes)}")
        if Path(text).is_dir():
            raise UserError(f"{option} {text}", "is a folder", "give the name of a file")
        return text

    return parse


#: Options that several verbs have.
_SHARED: dict[str, dict[str, Any]] = {
    "--measurements": {"metavar": "CSV", "help": "measurements.csv"},
    "--runs": {"metavar": "TSV", "help": "sample sheet, or a spec with its rows"},
    "--results": {"metavar": "DIR", "help": "results of the preset (holds students/<run>/ with the logs)"},
    "--own": {"metavar": "DIR", "help": "folder of the preset, if it has custom layouts (DIR/figures)"},
    "--title": {"default": "", "help": "headline"},
    "--extractor-option": {
        "action": "append",
        "default": [],
        "metavar": "NAME.KEY=VALUE",
        "help": "option of a feature network, e.g. inception.path=FILE",
    },
}


def shared(parser: argparse._ActionsContainer, *options: str, required: Container[str] = ()) -> None:
    """Adds options that several verbs have, some of them as required ones."""
    for option in options:
        parser.add_argument(option, **(_SHARED[option] | ({"required": True} if option in required else {})))


def parse_trials(text: str | None, count: int) -> list[int]:
    """Parses trial numbers: ``"0-9"``, ``"3"`` or ``"0,2,5-7"``; None gives all ``count``.

    Raises:
        UserError: A text of another form, an empty range, or a trial beyond ``count``.
    """
    if text is None:
        return list(range(count))
    trials: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise UserError("--trials", f"must be a number or a range like 0-9, got '{part}'")
        if last >= count:
            raise UserError("--trials", f"the protocol has the trials 0-{count - 1}, got '{text}'")
        trials += range(first, last + 1)
    return sorted(set(trials))
