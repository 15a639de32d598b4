"""CSV files with a heading: measurements, data of tables and figures, published numbers.

A file may be a stranger's: it is read as texts, or refused in one line.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sida.errors import UserError
from sida.files.text_files import HASH_KEY, check_amount, first_double, read_text

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
            same name, a quotation mark is not closed, or a cell is huge.
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
    # Earlier versions wrote a hash of each row.
    for _, row in lines:
        row.pop(HASH_KEY, None)
    return [column for column in columns if column != HASH_KEY], lines


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV text; missing cells and None are empty.

    An apostrophe precedes text that spreadsheets would run as a formula.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: str(value) for name, value in row.items() if value is not None}
        writer.writerow({name: f"'{text}" if FORMULA.match(text) else text for name, text in cells.items()})
    return stream.getvalue()
