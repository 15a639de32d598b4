"""Renders tables as Markdown, as CSV records, as aligned lines for the terminal and as HTML."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.eval.results.csv_files import csv_text
from sida.eval.tables.model import LEVEL_MARK, RECORD_FIELDS, Cell, Table

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


_ENDS, _ESCAPE, _TAG, _LINK = (
    re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+"),
    # A backslash of the text would take its meaning from a character behind it, or from an escape that is put there.
    re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)"),
    re.compile(r"<(?=[A-Za-z/!?])"),
    re.compile(r"\](?=[(:])"),
)


def to_csv(table: Table) -> str:
    """CSV of a table: one line per number cell with its provenance."""
    return csv_text(RECORD_FIELDS, table.records)


def _grid(table: Table, text: Callable[[Cell], str], head: Callable[[str], str], form: str) -> str:
    """Headings and cells of a table in a format of tabulate, numbers at the right."""
    from tabulate import tabulate

    heads = [head(column.title) for column in table.columns]
    lines = [[text(cell) for cell in row.cells] for row in table.rows]
    sides = ["right" if column.number else "left" for column in table.columns]
    is_plain = form == "plain"  # which would make room beside headings
    cells, headers = ([heads, *lines], ()) if is_plain else (lines, heads)
    return tabulate(cells, headers, form, colalign=sides, disable_numparse=True)


def to_markdown(table: Table) -> str:
    """A pipe table (GitHub's dialect) with caption and notes."""
    about = markdown(terminal_text(spelled(f"{f'**{table.title}.** ' * bool(table.title)}{table.caption}".strip())))
    body = _grid(table, _markdown_cell, markdown_cell, "pipe")
    notes = (markdown(terminal_text(spelled(note))) for note in table.notes)
    parts = [*([about] if table.title or table.caption else []), body, *notes]
    return "\n\n".join(parts) + "\n"


def markdown(text: str) -> str:
    """Escapes text for Markdown: no HTML tags, no links and no control characters but line ends remain."""
    lines = "\n".join(map(terminal_text, text.split("\n")))
    return _LINK.sub(r"\\]", _TAG.sub("&lt;", _ESCAPE.sub(r"\\\\", lines)))


def terminal_text(text: str) -> str:
    """Text without line ends, control characters and those that turn the direction of writing."""
    return _ENDS.sub(" ", text)


def spelled(text: str) -> str:
    """Text for readers: the method that is typed SiD2A is SiD²A, as the paper prints it."""
    return text.replace("SiD2A", "SiD²A")


def markdown_cell(text: str) -> str:
    """Text of a cell: one line."""
    return markdown(terminal_text(text)).replace("|", r"\|")


def _markdown_cell(cell: Cell) -> str:
    text = markdown_cell(spelled(cell.plain))
    if cell.kind == "missing":
        return f"*{text}*"
    return f"**{text}**" if cell.bold and text else text


def to_terminal(table: Table, colour: bool) -> str:
    """Renders a table as aligned columns for a terminal.

    Args:
        table: The table.
        colour: Whether best values are bold by escape codes; otherwise they have an asterisk.
    """

    def shown(cell: Cell) -> str:
        text = terminal_text(spelled(cell.plain)).replace(" ± ", "±").replace(f" {LEVEL_MARK}", LEVEL_MARK)
        is_bold = cell.bold and bool(text)
        return f"\033[1m{text}\033[0m" if is_bold and colour else text + "*" * is_bold

    heading, *lines = _grid(table, shown, terminal_text, "plain").splitlines()
    return "\n".join([heading, "─" * len(heading), *lines])


#: Delimiters in templates of LaTeX, in which braces and ``%`` are special.
_LATEX = {
    "variable_start_string": "<<", "variable_end_string": ">>", "block_start_string": "<%", "block_end_string": "%>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


@functools.cache
def template(path: Path, **filters: Callable[[str], Any]) -> Template:
    """Loads a template; HTML templates escape values that are not Markup and remove control characters.

    Args:
        path: The template: ``.html``, ``.tex`` or ``.md.jinja``.
        **filters: Filters by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    for_html = path.suffix == ".html"
    environment = Environment(
        loader=FileSystemLoader([path.parent, _FOLDER]),
        autoescape=for_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: terminal_text(value) if type(value) is str and for_html else value,
        **(_LATEX if path.suffix == ".tex" else {}),  # type: ignore[arg-type]
    )
    environment.filters |= filters
    return environment.get_template(path.name)


_FOLDER = Path(__file__).resolve().parent


def to_html(table: Table) -> str:
    """A complete page, readable in light and dark mode and on narrow screens."""
    title = spelled(table.title or table.name)
    return _template("page.html").render(title=title, page=page_of(table)) + "\n"


def page_of(table: Table) -> dict[str, Any]:
    """Title, caption, ``table`` element and notes of a table as HTML, and whether it is wide for a narrow screen.

    In the element, the class ``num`` marks columns of numbers, ``about`` those that narrow screens show below the name,
    and ``part`` rows that continue the row above.
    """
    from markupsafe import Markup

    parts = {
        "title": html_text(table.title or table.name),
        "caption": html_text(table.caption),
        "table": _template("table.html").render(table=table),
        "notes": "".join(f"<p>{html_text(note)}</p>" for note in table.notes),
    }
    return {name: Markup(part) for name, part in parts.items()} | {"wide": _is_wide(table)}


def _is_wide(table: Table) -> bool:
    """Whether a screen of 400 pixels shows a part of the columns only, with 7 pixels a character and 16 beside it."""
    beside = [number for number, column in enumerate(table.columns) if not (column.name or column.about)]
    texts = ([table.columns[number].title, *(row.cells[number].plain for row in table.rows)] for number in beside)
    return 150 + sum(16 + 7 * max(map(len, column)) for column in texts) > 400


def _template(name: str) -> Template:
    return template(_FOLDER / name, plain=_markup, spelled=spelled)


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(html_text(text))


def html_text(text: str) -> str:
    """Text for readers as HTML, with subscripts after Greek letters."""
    return re.sub(r"([α-ω])_([A-Za-z]+)", r"\1<sub>\2</sub>", html.escape(terminal_text(spelled(text)), quote=False))
