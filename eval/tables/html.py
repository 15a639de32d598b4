"""Tables as HTML pages that stand alone, and their parts for pages that show several tables."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from eval.tables.model import Cell, Row, Table
from sida.errors import UserError
from sida.files.text_files import read_text

_PARTS = re.compile(
    r"<h1>(?P<title>.*?)</h1>\n<p>(?P<caption>.*?)</p>\n<div>(?P<table><table>.*?</table>)</div>\n"
    r'<div class="notes">(?P<notes>.*?)</div>\n</body>',
    re.DOTALL,
)
_OURS = re.compile(r'</?(?:table|thead|tbody|tr|th|td|b|sup|sub|p)(?: class="[\w -]*"| colspan="\d+")*>')


@dataclass(frozen=True)
class Page:
    """The parts of a table's page, as HTML."""

    title: str
    caption: str
    table: str
    notes: str


def to_html(table: Table) -> str:
    """A page that stands alone, readable in light and dark mode and on narrow screens."""
    return _PAGE.format(
        title=html.escape(table.title or table.name),
        caption=html_text(table.caption),
        table=_table(table),
        notes="".join(f"<p>{html_text(note)}</p>" for note in table.notes),
    )


def read_html(path: Path) -> Page:
    """The parts of a page that :func:`to_html` wrote.

    Raises:
        UserError: The file holds something else.
    """
    found = _PARTS.search(read_text(path))
    # The parts go into other pages as they are, and a results folder may have come from someone else.
    if found is None or any("<" in _OURS.sub("", part) for part in found.groups()):
        raise UserError(f"{path}: holds no table; build it again")
    return Page(**found.groupdict())


def html_text(text: str) -> str:
    """Plain text as HTML, with the superscript of SiD2A and subscripts after Greek letters."""
    escaped = html.escape(text, quote=False).replace("SiD2A", "SiD<sup>2</sup>A")
    return re.sub(r"([α-ω])_([A-Za-z]+)", r"\1<sub>\2</sub>", escaped)


def _table(table: Table) -> str:
    """The ``table`` element. Class ``num`` marks columns of numbers, ``part`` rows that belong to the one above."""
    head = f"<tr>{_groups(table)}</tr>" if table.grouped else ""
    heads = [
        f"<th{_classes('num' * column.number, 'name' * column.name)}>{html_text(column.title)}</th>"
        for column in table.columns
    ]
    body = "\n".join(_row(table, row) for row in table.rows)
    return f"<table><thead>{head}<tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _groups(table: Table) -> str:
    cells = []
    for name, columns in groupby(table.columns, key=lambda column: column.group):
        cells.append(f'<th colspan="{len(list(columns))}"{_classes("group" * bool(name))}>{html_text(name)}</th>')
    return "".join(cells)


def _row(table: Table, row: Row) -> str:
    cells, place = [], 0
    for cell in row.cells:
        cells.append(_cell(table, place, cell))
        place += cell.columns
    return f"<tr{_classes('rule' * row.rule, 'part' * row.part)}>{''.join(cells)}</tr>"


def _cell(table: Table, place: int, cell: Cell) -> str:
    column = table.columns[place]
    classes = [cell.kind if cell.kind != "text" else "", "name" * column.name]
    if column.number:
        classes.append("num")
    elif len(cell.plain) < 48:
        classes.append("short")
    if cell.agreement:
        classes.append(cell.agreement)
    text = html_text(cell.plain)
    text = f"<b>{text}</b>" if cell.bold else text
    span = f' colspan="{cell.columns}"' if cell.columns > 1 else ""
    return f"<td{span}{_classes(*classes)}>{text}</td>"


def _classes(*names: str) -> str:
    given = " ".join(filter(None, names))
    return f' class="{given}"' if given else ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; max-width: 75rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }}
th, td {{ padding: .2rem .8rem; text-align: left; vertical-align: top; }}
td.num, td.short, th {{ white-space: nowrap; }}
sup {{ line-height: 0; }}
thead tr:last-child th {{ border-bottom: 1px solid; }}
th.group {{ border-bottom: 1px solid; text-align: center; }}
.num {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.rule td {{ border-top: 1px solid; }}
.published {{ font-style: italic; color: light-dark(#5b3f9e, #c3aef5); }}
.missing {{ opacity: .6; font-style: italic; }}
.better, .worse {{ color: light-dark(#a33c00, #ffb088); }}
.notes {{ font-size: 13px; opacity: .85; overflow-wrap: anywhere; }}
</style></head>
<body><h1>{title}</h1>
<p>{caption}</p>
<div>{table}</div>
<div class="notes">{notes}</div>
</body></html>
"""
