"""Tables: build data from a layout and measurements; render LaTeX, CSV, Markdown, HTML and terminal text."""

from eval.tables.build import build_table, load_table, make_table, table_paths, write_table
from eval.tables.latex import to_latex
from eval.tables.layout import TableLayout, load_layout
from eval.tables.model import Cell, Column, Row, Table
from eval.tables.render import to_csv, to_html, to_markdown, to_terminal

__all__ = [
    "Cell",
    "Column",
    "Row",
    "Table",
    "TableLayout",
    "build_table",
    "load_layout",
    "load_table",
    "make_table",
    "table_paths",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "write_table",
]
