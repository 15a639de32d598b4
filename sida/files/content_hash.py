"""Hashes of content inside JSON files, lines of JSON and rows of CSV, checked whenever such a record is read.

A hash finds damage (a flipped bit, a cut-off copy, an edited digit). It proves nothing about the author, since anyone
can compute it. Records without a hash come from other programs and are read as they are. Tensor files have their
hashes in the header (:mod:`sida.files.tensors`).
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sida.errors import UserError

#: Field or column of the hash.
HASH_KEY = "content_sha256"
#: Hexadecimal digits of the hash in a JSON file, and in one line or row of many.
FULL_DIGITS, SHORT_DIGITS = 64, 16
#: Cells that a spreadsheet program runs as a formula.
FORMULA = re.compile(r"\s*(?:[=@]|[+-](?:.*[(|!]|\s*[\r\n]))", re.DOTALL)
_REASON = "its content does not have the SHA-256 that it carries"
REMAKE = "delete it: the command that made it makes it again"


class DamagedError(UserError):
    """A file or line whose content does not have the recorded hash.

    Args:
        where: File, and line if it has lines.
        remedy: Action that fixes the damage.
        reason: Fault that was found.
    """

    def __init__(self, where: object, remedy: str = REMAKE, reason: str = _REASON) -> None:
        super().__init__(where, f"damaged: {reason}", remedy)
        self.args = (where, remedy, reason)  # with which a copy from another process is made


def content_hash(record: Mapping[str, Any], place: str = "") -> str:
    """SHA-256 of a record's canonical JSON without the hash field; 64 hexadecimal digits.

    Args:
        record: JSON values by key.
        place: Number of the line in a file that was written as a whole, see :func:`line_places`.
    """
    plain = {key: value for key, value in record.items() if key != HASH_KEY}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(f"{text}{place}".encode()).hexdigest()


def with_hash(record: Mapping[str, Any], digits: int = FULL_DIGITS, place: str = "") -> dict[str, Any]:
    """Adds the hash of its content to a record, which is converted to plain JSON values."""
    plain = json.loads(json.dumps(dict(record), allow_nan=False))
    return {**plain, HASH_KEY: content_hash(plain, place)[:digits]}


def check_hash(
    record: Mapping[str, Any], where: object, remedy: str = REMAKE, accepted: Sequence[str] = ("",)
) -> dict[str, Any]:
    """Checks the hash of a record, and returns the record without it.

    Args:
        record: JSON values by key, or a row of CSV: texts by column.
        where: File (and line) named in errors.
        remedy: Action that fixes damage, for errors.
        accepted: Accepted places of the record, see :func:`content_hash`.

    Raises:
        DamagedError: The hash is not that of the content.
    """
    if not is_hashed(record):
        return dict(record)
    plain = {key: value for key, value in record.items() if key != HASH_KEY}
    found = record.get(HASH_KEY)
    try:
        legible = isinstance(found, str) and len(found) >= SHORT_DIGITS
        if not legible or not any(content_hash(plain, place).startswith(str(found)) for place in accepted):
            raise DamagedError(where, remedy)
    except (TypeError, ValueError, RecursionError):
        raise DamagedError(where, remedy) from None
    return plain


def line_places(count: int) -> list[str]:
    """Places of a file's lines, such as ``1/3``, ``2/3``, ``3/3``; in the hashes they reveal a lost line."""
    return [f"{number}/{count}" for number in range(1, count + 1)]


def is_hashed(keys: Iterable[str | None]) -> bool:
    """Whether a record with these keys has a hash, possibly under a key with one damaged letter."""
    return any(
        key is not None and len(key) == len(HASH_KEY) and sum(map(str.__ne__, key, HASH_KEY)) <= 1 for key in keys
    )


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV text whose last column holds the hash of each row: of column names, cells and place.

    Missing cells and None are empty. An apostrophe precedes text that spreadsheets would run as a formula.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [*columns, HASH_KEY], lineterminator="\n")
    writer.writeheader()
    whole = list(rows)
    for place, row in zip(line_places(len(whole)), whole):
        unknown = [key for key in row if key not in columns]
        if unknown:
            raise ValueError(f"no column for '{unknown[0]}'")
        cells = {name: "" if row.get(name) is None else str(row[name]) for name in columns}
        cells = {name: f"'{text}" if FORMULA.match(text) else text for name, text in cells.items()}
        writer.writerow(with_hash(cells, SHORT_DIGITS, place))
    return stream.getvalue()


def checked_rows(
    columns: Sequence[str], rows: Sequence[tuple[int, dict[str, Any]]], path: object
) -> list[tuple[int, dict[str, Any]]]:
    """Checks the hashes of the rows of a CSV file, if it has any, and returns the rows without them.

    Args:
        columns: The heading.
        rows: Line number and cells by column.
        path: The file.

    Raises:
        DamagedError: A row's hash is not that of its cells, or rows are missing.
    """
    if not is_hashed(columns):
        return list(rows)
    checked = []
    for place, (line, row) in zip(line_places(len(rows)), rows):
        where = f"{path}:{line}"
        if None in row:
            raise DamagedError(where)
        checked.append((line, check_hash(row, where, accepted=[place])))
    return checked
