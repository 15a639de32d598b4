"""Finds the rows of a sample sheet that a table or figure shows, so that it can be made without the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.figures.build import is_figure_kind, load_figure_layout
from eval.results.sheet import Needs, Run, read_extended
from eval.tables.hyperparameters import load_hyper_layout
from eval.tables.layout import TableLayout, expand, load_layout, read_layout
from sida.errors import UserError


def find_needs(path: str | Path, runs: Mapping[str, Run]) -> Needs:
    """Needs of a layout of ``config/tables`` or ``config/figures``; rows that are not in the sheet are left out.

    A layout that cannot be resolved needs every row; its builder reports the fault.

    Args:
        path: The layout.
        runs: The sample sheet.
    """
    try:
        kind = read_extended(Path(path)).get("kind")
        if is_figure_kind(kind):
            found = load_figure_layout(path).needs(runs)
        elif (mapping := read_layout(path)).pop("kind", "results") == "hyperparameters":
            found = Needs([], _hyperparameters(mapping, path))
        else:
            names = _table(load_layout(path), runs)
            found = Needs(names, names)
    except UserError:
        return Needs(list(runs), list(runs))
    # Measured rows and networks are separate: a figure may draw measured levels beside curves of training logs.
    ordered = {key: [name for name in runs if name in getattr(found, key)] for key in ("measured", "networks")}
    return dataclasses.replace(found, **ordered)  # type: ignore[arg-type]


def _hyperparameters(mapping: dict[str, Any], path: str | Path) -> set[str]:
    return {run for column in load_hyper_layout(mapping, path).columns for run in (column.sid, column.sida)}


def _table(layout: TableLayout, runs: Mapping[str, Run]) -> set[str]:
    names: set[str] = set()
    for _, row in expand(layout, runs):
        for column in layout.columns:
            name = (row.run or "").replace("{column}", column.key)
            for key, value in layout.vars.items():
                name = name.replace("{" + key + "}", str(value))
            names |= {column.run_of(run) for run in (name, *row.pool)}
    return names
