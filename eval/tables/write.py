"""All file forms of a table, each written atomically."""

from __future__ import annotations

from pathlib import Path

from eval.tables.html import to_html
from eval.tables.latex import to_latex
from eval.tables.model import Table
from eval.tables.text import to_csv, to_markdown
from sida.errors import UserError
from sida.io import write_text

RENDERERS = {".tex": to_latex, ".csv": to_csv, ".md": to_markdown, ".html": to_html}


def write_table(table: Table, out: str | Path) -> list[Path]:
    """Writes ``out`` and its three siblings (``.tex``, ``.csv``, ``.md``, ``.html``); returns their paths.

    Raises:
        UserError: ``out`` does not end in one of the four suffixes.
    """
    out = Path(out)
    if out.suffix not in RENDERERS:
        raise UserError(f"--out {out}: must end in {', '.join(RENDERERS)}")
    paths = [out.with_suffix(suffix) for suffix in RENDERERS]
    for path in paths:
        write_text(path, RENDERERS[path.suffix](table))
    return paths
