"""Loads jinja2 templates of HTML and LaTeX."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

#: Delimiters in templates of LaTeX, in which braces and ``%`` are special.
_LATEX = {
    "variable_start_string": "<<", "variable_end_string": ">>", "block_start_string": "<%", "block_end_string": "%>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


@functools.cache
def template(path: Path, **filters: Callable[[str], Any]) -> Template:
    """Loads a template; HTML templates escape values that are not Markup, LaTeX templates escape nothing.

    Args:
        path: The template, ``.html`` or ``.tex``.
        **filters: Filters by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    latex = path.suffix == ".tex"
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=not latex,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **(_LATEX if latex else {}),  # type: ignore[arg-type]
    )
    environment.filters |= filters
    return environment.get_template(path.name)
