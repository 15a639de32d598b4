"""Renders tables as HTML pages, and as parts of pages with several tables."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval.tables.model import Table
from eval.tables.templates import template

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_FOLDER = Path(__file__).resolve().parent


class Page(NamedTuple):
    """The parts of a table's page, as HTML."""

    title: Markup
    caption: Markup
    table: Markup
    notes: Markup


def to_html(table: Table) -> str:
    """A complete page, readable in light and dark mode and on narrow screens."""
    return pages(table.title or table.name, [table])


def pages(title: str, tables: Sequence[Table]) -> str:
    """A complete page of several tables."""
    return _template("page.html").render(title=title, pages=[page_of(table) for table in tables]) + "\n"


def page_of(table: Table) -> Page:
    """Title, caption, ``table`` element and notes of a table.

    In the element, the class ``num`` marks columns of numbers and ``part`` marks rows that continue the row above.
    """
    from markupsafe import Markup

    notes = "".join(f"<p>{html_text(note)}</p>" for note in table.notes)
    title, element = html.escape(table.title or table.name), _template("table.html").render(table=table)
    return Page(Markup(title), Markup(html_text(table.caption)), Markup(element), Markup(notes))


def _template(name: str) -> Template:
    return template(_FOLDER / name, plain=_markup)


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(html_text(text))


def html_text(text: str) -> str:
    """Plain text as HTML, with the superscript of SiD2A and subscripts after Greek letters."""
    escaped = html.escape(text, quote=False).replace("SiD2A", "SiD<sup>2</sup>A")
    return re.sub(r"([α-ω])_([A-Za-z]+)", r"\1<sub>\2</sub>", escaped)
