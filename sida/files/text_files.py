"""Readers of untrusted text, CSV and JSON: plain values, or an error of one line.

A file is refused if it is a pipe, not in UTF-8, or too large, nests too deeply, or repeats a key.
:mod:`sida.files.yaml_text` reads YAML.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Hashable, Iterable
from typing import Any

from sida.errors import UserError
from sida.files.content_hash import DamagedError, checked_rows
from sida.files.ordinary_file import read_ordinary

#: Limit of a text file in bytes; the largest files (measurements of the paper) have a few million.
MOST_TEXT_BYTES = 256 << 20
#: Limits of JSON in values (counted by brackets and commas), and of CSV in rows and cells.
MOST_JSON, MOST_ROWS, MOST_CELLS = 2_000_000, 1_000_000, 12_000_000
#: Limit of a log in values of all lines.
MOST_LOGGED = 4_000_000
#: Limit of a sample sheet or a registry of downloads in lines.
MOST_LINES = 100_000
#: Limit of nested mappings and lists.
MOST_LEVELS = 60

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SAVE = "save it as UTF-8 (Excel: 'CSV UTF-8'; other programs: encoding or character set UTF-8)"
# Control characters except tabs and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: Surrogates: in UTF-16 two of them stand for one character; a single one cannot be written.
_HALVES = re.compile("[\ud800-\udfff]")


def read_text(path: str | os.PathLike[str], newline: str | None = None) -> str:
    """Reads a UTF-8 file, without a byte order mark.

    Args:
        path: A regular file; one that ends in ``.gz`` is decompressed.
        newline: ``""`` keeps line ends, for :mod:`csv`; by default they become line feeds.

    Raises:
        UserError: The file is missing, not regular, too large, in another encoding (the message names it), or has
            control characters.
    """
    content = read_ordinary(path, str(path), MOST_TEXT_BYTES, "give the path of a text file", "is it the right file?")
    if os.fspath(path).endswith(".gz"):
        content = _decompressed(content, str(path))
    text = _decoded(content, str(path))
    return text if newline == "" else text.replace("\r\n", "\n").replace("\r", "\n")


def gzip_bytes(text: str) -> bytes:
    """A text compressed for a file ``.gz``; equal texts give equal bytes."""
    return gzip.compress(text.encode(), 9, mtime=0)


def _decompressed(content: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            # A small file can hold a huge text.
            text = stream.read(MOST_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedError(where, reason=f"not a whole gzip file ({error})") from None
    if len(text) > MOST_TEXT_BYTES:
        raise UserError(f"{where}: holds more than {MOST_TEXT_BYTES >> 20} MiB; is it the right file?")
    return text


def _decoded(content: bytes, where: str) -> str:
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            raise UserError(f"{where}: is {name} text; {_SAVE}")
    half = content[: 1 << 10]
    if len(half) > 3 and (not any(half[1::2]) or not any(half[::2])):
        raise UserError(f"{where}: looks like UTF-16 text; {_SAVE}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        character = bytes([byte]).decode("cp1252", "ignore")
        guess = f"; in Windows-1252 it is '{character}'" if character else ""
        raise UserError(f"{where}:{line}: is not UTF-8 text (byte 0x{byte:02x}{guess}); {_SAVE}") from None
    found = _CONTROL.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise UserError(f"{where}:{line}: holds a control character (0x{ord(found[0]):02x}); is it a text file?")
    return text


def read_csv(path: str | os.PathLike[str]) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Reads a CSV file with a heading.

    Returns:
        The heading; and number and cells by column of each line. A missing cell is None.

    Raises:
        UserError: As :func:`read_text`; two columns have the same name, a quotation mark is not closed, a cell is huge,
            a row's hash is not that of its cells, or rows are missing (:mod:`sida.files.content_hash`).
    """
    return parse_csv(read_text(path, newline=""), path)


def parse_csv(text: str, path: str | os.PathLike[str]) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """As :func:`read_csv` for the text of a file, with unchanged line ends."""
    check_amount(text, str(path), "\n", MOST_ROWS, "rows")
    check_amount(text, str(path), ",\n", MOST_CELLS, "cells")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or [])
        if (column := first_double(columns)) is not None:
            raise UserError(f"{path}:1: two columns are called '{column}'; remove or rename one")
        lines = [(reader.line_num, record) for record in reader]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error}); fix the line") from None
    if not lines and not text.endswith(("\n", "\r")):
        raise UserError(f"{path}: was cut off in its heading; make it again")
    return columns, checked_rows(columns, lines, path)


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON text to plain values.

    Raises:
        UserError: The text is not JSON or too large, repeats a key, has NaN or infinity, or nests too deeply.
    """
    check_amount(text, where)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({brief_reason(error)})") from None
    check_values(value, where)
    return value


def check_amount(text: str | bytes, where: str, marks: str = "[{,", most: int = MOST_JSON, of: str = "values") -> None:
    """Refuses a text with too many of some characters, before it is parsed.

    Args:
        text: The text.
        where: Place named in errors.
        marks: Characters that are counted.
        most: Largest number of them.
        of: Noun for the counted things, in errors.

    Raises:
        UserError: The text has more.
    """
    if sum(text.count(mark if isinstance(text, str) else mark.encode()) for mark in marks) > most:  # type: ignore[arg-type,misc]
        raise UserError(f"{where}: has more than {most:,} {of}; is it the right file?")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (key := first_double([key for key, _ in pairs])) is not None:
        raise UserError(f"key '{key}' occurs twice; remove one of them")
    return dict(pairs)


def first_double(keys: Iterable[Hashable]) -> Any:
    """The first key that occurs twice, or None."""
    seen: set[Hashable] = set()
    return next((key for key in keys if key in seen or seen.add(key)), None)  # type: ignore[func-returns-value]


def _no_constant(text: str) -> Any:
    raise UserError(f"{text} is not a JSON number; give a finite number")


def check_values(value: Any, where: str) -> None:
    """Refuses values that settings cannot have: not plain, NaN, huge integers, or too many levels.

    Raises:
        UserError: A value is refused.
    """
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                bad = next((key for key in item if not _plain(key)), None)
                if bad is not None:
                    raise UserError(f"{where}: a key is {_named(bad)}; quote it")
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif not _plain(item):
                raise UserError(f"{where}: a value is {_named(item)}; give a number or a text (quoted)")
        if not inner:
            return
        level = inner
    raise UserError(f"{where}: nested more than {MOST_LEVELS} levels deep")


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    if isinstance(value, int):
        return value.bit_length() <= 1024
    return (
        value is None
        or isinstance(value, datetime.date)
        or (isinstance(value, str) and (value.isascii() or not _HALVES.search(value)))
    )


def _named(value: Any) -> str:
    if isinstance(value, float):
        return "not a number"
    if isinstance(value, str):
        return f"half of a character ({value!a})"
    if isinstance(value, int):
        return "an integer of too many digits"
    return f"of type {type(value).__name__}"


def brief_reason(error: object) -> str:
    """A parser's message on one line, cut to 200 characters."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:200]
