"""What the command line hands to the builder: measurements, sample sheet and published numbers."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.results.published import Published, load_published
from eval.results.selection import SELECTABLE
from eval.results.summary import Measurements, load_measurements
from eval.tables.build import build_table
from eval.tables.hyperparameters import build_hyperparameters, load_hyper_layout
from eval.tables.layout import TableLayout, load_layout, read_layout
from eval.tables.model import Table
from sida.config import load_spec
from sida.errors import UserError, suggestion
from sida.preset import Preset, Run, read_runs
from sida.resources import find


def build_from_options(args: argparse.Namespace) -> Table:
    """Builds the table that the options of ``sida-eval table`` describe.

    Raises:
        UserError: Any fault in layout, measurements, sheet or options.
    """
    path = find("tables", args.layout, where="--layout")
    mapping = read_layout(path)
    if mapping.pop("kind", "results") == "hyperparameters":
        preset = Preset(load_spec(args.config, "--config"), "--config") if args.config else None
        results = args.results or (Path(args.measurements).parent if args.measurements else None)
        hyper = load_hyper_layout(mapping, path)
        return build_hyperparameters(hyper, load_published(args.published), preset, results, args.mode)
    layout = layout_with_scope(path, args.scope)
    mode = args.mode or layout.mode or "measured"
    measurements, runs, published = table_inputs(mode, args.measurements, args.runs, args.published)
    return build_table(layout, measurements, runs, published, mode)


def table_inputs(
    mode: str, measurements: str | None, runs: str | None, published: str | None
) -> tuple[Measurements, Mapping[str, Run], Mapping[str, Published]]:
    """Reads what a mode needs.

    In ``audit`` mode a file of measurements that does not exist yet counts as empty: every cell of ours then says
    'not measured'.

    Raises:
        UserError: ``measured`` mode without ``--measurements`` or ``--runs``, or a faulty file.
    """
    if mode == "measured" and (measurements is None or runs is None):
        raise UserError("mode measured needs --measurements and --runs; or use --mode paper")
    measured = Measurements([], measurements or "no measurements")
    if measurements is not None and mode != "paper" and (mode == "measured" or Path(measurements).is_file()):
        measured = load_measurements(measurements)
    sheet = {run.run: run for run in read_runs(runs)} if runs is not None else {}
    return measured, sheet, load_published(published)


def layout_with_scope(path: str | Path, scope: Sequence[str]) -> TableLayout:
    """Loads a layout and adds ``COLUMN=VALUE`` conditions to its scope.

    Raises:
        UserError: A faulty layout or condition.
    """
    layout = load_layout(path)
    return dataclasses.replace(layout, scope={**layout.scope, **parse_scope(scope)})


def parse_scope(conditions: Sequence[str]) -> dict[str, object]:
    """Turns ``COLUMN=VALUE`` options into conditions on the sample sheet.

    Raises:
        UserError: Not of that form, or not a column of the sheet.
    """
    scope: dict[str, object] = {}
    for condition in conditions:
        key, sign, value = condition.partition("=")
        if not sign or key not in SELECTABLE:
            known = suggestion(key, SELECTABLE)
            raise UserError(f"--scope {condition}: give COLUMN=VALUE with a column of the sheet{known}")
        try:
            scope[key] = float(value) if key == "alpha" else int(value) if key == "seed" else value
        except ValueError:
            raise UserError(f"--scope {condition}: {key} must be a number") from None
    return scope
