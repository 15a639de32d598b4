"""CSV files with a heading: measurements, data of tables and figures, published numbers.

A file may be a stranger's: it is read as texts, or refused in one line. Each row that this package writes has a hash of
its content and place (:mod:`sida.files.text_files`).
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sida.errors import UserError
from sida.files.text_files import (
    HASH_KEY,
    DamagedError,
    check_amount,
    check_hash,
    first_double,
    is_hashed,
    line_positions,
    read_text,
    with_hash,
)

#: Limits of a file in rows and cells.
MOST_ROWS, MOST_CELLS = 1_000_000, 12_000_000
#: Cells that a spreadsheet program runs as a formula.
FORMULA = re.compile(r"\s*(?:[=@]|[+-](?:.*[(|!]|\s*[\r\n]))", re.DOTALL)


def read_csv(path: str | os.PathLike[str]) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Reads a CSV file with a heading.

    Returns:
        The heading; and number and cells by column of each line. A missing cell is None.

    Raises:
        UserError: As :func:`sida.files.text_files.read_text`; the file has too many rows or cells, two columns have the
            same name, a quotation mark is not closed, a cell is huge, a row's hash does not fit its cells, or rows
            are missing.
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
            raise UserError(f"{path}:1", f"two columns are called '{column}'", "remove or rename one")
        lines = [(reader.line_num, record) for record in reader]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}", f"not valid CSV ({error})", "fix the line") from None
    if not lines and not text.endswith(("\n", "\r")):
        raise UserError(path, "was cut off in its heading", "make it again")
    if not is_hashed(columns):
        return columns, lines
    checked = []
    for hash_place, (line, row) in zip(line_positions(len(lines)), lines):
        if None in row:
            raise DamagedError(f"{path}:{line}")
        checked.append((line, check_hash(row, f"{path}:{line}", accepted=[hash_place])))
    return columns, checked


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV text whose last column holds the hash of each row: of column names, cells and place.

    Missing cells and None are empty. An apostrophe precedes text that spreadsheets would run as a formula.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, [*columns, HASH_KEY], lineterminator="\n")
    writer.writeheader()
    records = list(rows)
    for hash_place, row in zip(line_positions(len(records)), records):
        cells = dict.fromkeys(columns, "") | {name: str(value) for name, value in row.items() if value is not None}
        cells = {name: f"'{text}" if FORMULA.match(text) else text for name, text in cells.items()}
        writer.writerow(with_hash(cells, hash_place))
    return stream.getvalue()
