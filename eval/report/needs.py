"""Finds the rows of a sample sheet that a table or figure shows, so that it can be made without the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from eval.figures.layout import load_figure_layout
from eval.results.sheet import Needs, SheetRow, read_extended
from eval.tables.layout import TABLE_KINDS, load_table_layout
from sida.errors import UserError


def find_needs(path: str | Path, runs: Mapping[str, SheetRow]) -> Needs:
    """Needs of a layout of ``config/tables`` or ``config/figures``; rows that are not in the sheet are left out.

    A layout that cannot be resolved needs every row; its builder reports the fault.

    Args:
        path: The layout.
        runs: The sample sheet.
    """
    try:
        table = (
            Path(path).parent.name == "tables" or str(read_extended(Path(path)).get("kind", "results")) in TABLE_KINDS
        )
        found = (load_table_layout if table else load_figure_layout)(path).needs(runs)
    except UserError:
        return Needs(list(runs), list(runs))
    # Measured rows and networks are separate: a figure may draw measured levels beside curves of training logs.
    ordered = {key: [name for name in runs if name in getattr(found, key)] for key in ("measured", "networks")}
    return dataclasses.replace(found, **ordered)  # type: ignore[arg-type]
