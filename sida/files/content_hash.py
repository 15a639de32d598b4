"""Records that carry the hash of their content: JSON files, lines of JSON, rows of CSV; checked whenever they are read.

A hash finds damage (a flipped bit, a cut-off copy, a digit that was edited); it proves nothing about who wrote a file,
since anyone can compute it again. Records without a hash come from other programs and are read as is.
Files of tensors have theirs in the header (:mod:`sida.files.tensor_header`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sida.errors import UserError

#: The field, or column, that holds the hash.
KEY = "content_sha256"
#: Hexadecimal digits of it in a file of its own, and in one line of many.
WHOLE, SHORT = 64, 16
#: Cells that programs which open a table run as a formula.
FORMULA = re.compile(r"\s*(?:[=@]|[+-].*[(|!])")
_REASON = "its content does not have the SHA-256 that it carries"
REMAKE = "delete it: the command that made it makes it again"


class DamagedError(UserError):
    """A file, or a line of one, whose content does not have the hash that it carries.

    Args:
        where: The file, and the line if it has lines.
        remedy: What to do.
        reason: What is wrong.
    """

    def __init__(self, where: object, remedy: str = REMAKE, reason: str = _REASON) -> None:
        super().__init__(f"{where}: damaged: {reason}; {remedy}")


def content_hash(record: Mapping[str, Any], place: str = "") -> str:
    """SHA-256 of a record's canonical JSON, without its own field for it; 64 hexadecimal digits.

    Args:
        record: JSON values by key.
        place: Of a line in a file that was written as a whole, see :func:`line_places`.
    """
    plain = {key: value for key, value in record.items() if key != KEY}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{text}{place}".encode()).hexdigest()


def sealed(record: Mapping[str, Any], digits: int = WHOLE, place: str = "") -> dict[str, Any]:
    """The record as JSON gives it back (keys are texts, tuples lists), with the hash of its content."""
    plain = json.loads(json.dumps(dict(record), allow_nan=False))
    return {**plain, KEY: content_hash(plain, place)[:digits]}


def unsealed(
    record: Mapping[str, Any], where: object, remedy: str = REMAKE, accepted: Sequence[str] = ("",)
) -> dict[str, Any]:
    """The record without its hash.

    Args:
        record: From JSON, or a row of CSV: texts by column.
        where: File (and line) named in errors.
        remedy: What to do about damage.
        accepted: Places, see :func:`content_hash`.

    Raises:
        DamagedError: It carries another hash than that of its content.
    """
    if not is_hashed(record):
        return dict(record)
    plain = {key: value for key, value in record.items() if key != KEY}
    found = record.get(KEY)
    try:
        whole = isinstance(found, str) and len(found) >= SHORT
        if not whole or not any(content_hash(plain, place).startswith(str(found)) for place in accepted):
            raise DamagedError(where, remedy)
    except (TypeError, ValueError, RecursionError):
        raise DamagedError(where, remedy) from None
    return plain


def line_places(count: int) -> list[str]:
    """``1/3``, ``2/3``, ``3/3``: in the hashes of a file's lines, so that none of them can be lost."""
    return [f"{number}/{count}" for number in range(1, count + 1)]


def is_hashed(keys: Iterable[str | None]) -> bool:
    """Whether a record with these keys carries a hash, be it under a name with a damaged letter."""
    return any(key is not None and len(key) == len(KEY) and sum(map(str.__ne__, key, KEY)) <= 1 for key in keys)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with a last column for the hash of each row: of names and texts of its cells, and of its place.

    Cells that are absent or None are empty. Those that spreadsheets run begin with an apostrophe.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [*columns, KEY], lineterminator="\n")
    writer.writeheader()
    whole = list(rows)
    for place, row in zip(line_places(len(whole)), whole):
        unknown = [key for key in row if key not in columns]
        if unknown:
            raise ValueError(f"no column for '{unknown[0]}'")
        cells = {name: "" if row.get(name) is None else str(row[name]) for name in columns}
        cells = {name: f"'{text}" if FORMULA.match(text) else text for name, text in cells.items()}
        writer.writerow(sealed(cells, SHORT, place))
    return stream.getvalue()


def checked_rows(
    columns: Sequence[str], rows: Sequence[tuple[int, dict[str, Any]]], path: object
) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a CSV file without their hashes; without such a column they are as they were.

    Args:
        columns: The heading.
        rows: Line in the file, and cells by column.
        path: The file.

    Raises:
        DamagedError: A row with another hash than that of its cells, or lost rows.
    """
    if not is_hashed(columns):
        return list(rows)
    checked = []
    for place, (line, row) in zip(line_places(len(rows)), rows):
        where = f"{path}:{line}"
        if None in row:
            raise DamagedError(where)
        checked.append((line, unsealed(row, where, accepted=[place])))
    return checked
