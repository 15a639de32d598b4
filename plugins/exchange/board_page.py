"""The board as a page: a table that is sorted and filtered in the browser, without a server and without other files.

All rows are in the page, so that it can be read without JavaScript. Sorting by value orders within a group of rows that
may stand beside each other (:func:`sida.plugins.exchange.board.rank_groups`) and leaves the others in the order of
their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.eval.tables.render import html_text, template
from sida.files.atomic import write_text
from sida.plugins.exchange.board import CERTAINTIES, SENT, BoardRow, printed_rows, rank_groups, read_sent, sent_rows

if TYPE_CHECKING:
    from markupsafe import Markup

_FOLDER = Path(__file__).resolve().parent / "templates"
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
_UNSAID = "not said"
#: Meaning of the words before a network that was used in training.
_ROLES = {
    "loss": "the network's gradients trained the generator",
    "start": "the generator, its teacher or its latents start from the network",
    "choice": "a metric on the network chose the file, the seed or the guidance",
}
#: Filters: name of the attribute, label, and the values of a row.
_FILTERS = {
    "set": ("Data set", lambda row: [" ".join(filter(None, (row.data_set, row.conditioning)))]),
    "metric": ("Metric", lambda row: [row.metric]),
    "steps": ("Steps", lambda row: [row.nfe or "?"]),
    "teacher": ("Teacher", lambda row: [row.teacher or _UNSAID]),
    "data": ("Real images", lambda row: [row.data or _UNSAID]),
    "exposure": ("Networks used in training", lambda row: row.exposure),
    "year": ("Year", lambda row: [row.date[:4] or _UNSAID]),
    "certainty": ("Certainty", lambda row: [row.certainty]),
}


def board_rows(folder: str | Path = SENT) -> list[BoardRow]:
    """All rows: the sent ones, then the printed ones.

    Raises:
        UserError: A row that was sent is refused (:func:`sida.plugins.exchange.board.read_sent`).
    """
    return [*sent_rows(read_sent(folder)), *printed_rows()]


def board_fragment(rows: Sequence[BoardRow]) -> str:
    """The board as an element of a page, with its own style and script."""
    groups = rank_groups(rows)
    group_of = {index: number for number, group in enumerate(groups) for index in group}
    page_rows = [
        {
            "row": row,
            "group": group_of.get(index),
            "values": {name: values(row) for name, (_, values) in _FILTERS.items()},
            "steps": _leading_number(row.nfe),
        }
        for index, row in enumerate(rows)
    ]
    heads = [_head(rows[group[0]], len(group)) for group in groups]
    filters = [
        (name, label, _in_order({value for row in page_rows for value in row["values"][name]}))  # type: ignore[index]
        for name, (label, _) in _FILTERS.items()
    ]
    page = template(_FOLDER / "board.html", linked=_with_links, plain=_markup)
    keys = {"certainties": CERTAINTIES, "roles": _ROLES}
    return page.render(rows=page_rows, heads=heads, filters=filters, unsaid=_UNSAID, **keys)


def write_board(out: str | Path, folder: str | Path = SENT) -> int:
    """Writes the board as a complete page; returns its number of rows.

    Args:
        out: The page, an HTML file.
        folder: Folder of sent rows.

    Raises:
        UserError: As :func:`board_rows`.
    """
    rows = board_rows(folder)
    write_text(out, template(_FOLDER / "board_page.html").render(board=_safe(board_fragment(rows))) + "\n")
    return len(rows)


def _head(row: BoardRow, count: int) -> str:
    images = f"{row.identity.n:,} images" if row.identity.n else "images not said"
    return f"{row.metric}, {row.data_set}, {row.conditioning}: {count} comparable rows, {images}"


def _leading_number(text: str) -> float:
    """The number that a text begins with, for sorting; a text without one comes last."""
    match = re.match(r"\d+", text)
    return float(match[0]) if match else 1e9


def _in_order(values: Iterable[str]) -> list[str]:
    return sorted(values, key=lambda value: (_leading_number(value), value.casefold()))


def _with_links(text: str) -> Markup:
    """Text with links to arXiv."""
    return _safe(_ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', html_text(text)))


def _markup(text: str) -> Markup:
    return _safe(html_text(text))


def _safe(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)
