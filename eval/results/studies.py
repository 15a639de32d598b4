"""Studies of weights: columns of numbers about a row's network, in a file ``<study>/<run>.json`` under ``curves``.

A key of a preset names the rows of a study. A verb of ``sida-eval`` computes the file; a figure kind and a rule of
claims, which is named like the verb, read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.results.barriers import LOSSES
from eval.results.layers import SIGMA
from sida.errors import UserError
from sida.files.atomic import read_hashed_json

#: Verbs of studies, by their key in a preset.
STUDIES = {"barriers": "barrier", "layers": "layers"}
_COLUMNS = {"barriers": {*LOSSES}, "layers": {SIGMA}}


def format_of(study: str) -> str:
    """Format that a study's files name."""
    return f"sida-{STUDIES[study]}/1"


def read_curves(study: str, path: str | Path) -> dict[str, Any]:
    """Reads a file of a study: ``run``, and equally long ``curves`` by name.

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    path, verb = Path(path), STUDIES[study]
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with `sida-eval {verb} --spec SPEC --out {path}`")
    found = read_hashed_json(path, f"make it again with `sida-eval {verb}`")
    if found.get("format") != format_of(study) or not _is_complete(found.get("curves"), _COLUMNS[study]):
        raise UserError(f"{path}: is not written by `sida-eval {verb}` (format {format_of(study)}); make it again")
    return found


def _is_complete(curves: Any, columns: set[str]) -> bool:
    if not isinstance(curves, Mapping) or not columns <= set(curves):
        return False
    lengths = {len(values) if isinstance(values, list) else 0 for values in curves.values()}
    numbers = [isinstance(value, (int, float)) for values in curves.values() for value in values]
    return len(lengths) == 1 and min(lengths) >= 3 and all(numbers)
