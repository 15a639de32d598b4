"""From command-line options to the files of a figure."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from eval.figures.layout import CurvesLayout, load_figure_layout
from eval.results.published import load_published
from eval.results.summary import Measurements, load_measurements
from eval.tables.inputs import parse_scope
from sida.errors import UserError, suggestion
from sida.io import write_text
from sida.preset import read_runs
from sida.resources import find


def build_figure(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Writes ``.pdf``, ``.png`` and ``.csv``; returns their paths and remarks for the user.

    Raises:
        UserError: A faulty layout, log or sheet, or an output name that is not ``*.pdf``.
    """
    out = Path(args.out)
    if out.suffix != ".pdf":
        raise UserError(f"--out {out}: must end in .pdf; .png and .csv are written beside it")
    layout = load_figure_layout(find("figures", args.layout, where="--layout"))
    layout = dataclasses.replace(layout, scope={**(layout.scope or {}), **parse_scope(args.scope)})
    runs = {run.run: run for run in read_runs(args.runs)}
    if not isinstance(layout, CurvesLayout):
        from eval.figures.samples import build_samples

        paths, absent = build_samples(layout, runs, args.spec, out)
        return paths, [f"not shown, no data yet: {name}" for name in absent]
    from eval.figures import style
    from eval.figures.data import curves_csv
    from eval.figures.gather import Sources, gather
    from eval.figures.plot import draw_curves
    from eval.figures.select import present

    logs = {}
    for entry in args.log:
        name, sign, path = entry.partition("=")
        if not sign or name not in runs:
            raise UserError(f"--log {entry}: give RUN=FILE with a run of the sample sheet{suggestion(name, runs)}")
        logs[name] = Path(path)
    measured = args.measurements is not None and Path(args.measurements).is_file()
    measurements = load_measurements(args.measurements) if measured else Measurements([], "no measurements")
    sources = Sources(measurements, runs, load_published(args.published), Path(args.results) / "students", logs)
    layout = present(layout, runs)
    panels = gather(layout, sources)
    figure = draw_curves(layout, panels)
    write_text(out.with_suffix(".csv"), curves_csv(layout, panels))
    paths = [*style.save(figure, out, layout.title), out.with_suffix(".csv")]
    missing = [f"not shown, no data yet: {name}" for panel in panels for name in panel.missing]
    return paths, [*missing, *dict.fromkeys(f"note: {note}" for panel in panels for note in panel.notes)]
