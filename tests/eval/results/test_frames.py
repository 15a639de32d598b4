"""Results as DataFrames: the numbers of the files, and pandas only where somebody asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eval.results import load
from eval.results.summary import load_measurements
from eval.results.training_logs import read_evaluations
from sida.errors import UserError
from sida.files.atomic import write_hashed_json
from tests.eval.synthetic_output import write_preset


def test_frames_hold_the_numbers_of_the_files(tmp_path):
    folder = write_preset(tmp_path / "p")
    found = load(folder)
    known = load_measurements(folder / "measurements.csv")
    run, metric = known.runs[0], known.metrics[0]
    mean = found.measurements.query("run == @run and metric == @metric").value.mean()
    assert mean == pytest.approx(known.estimate(run, metric).mean, rel=1e-12)
    assert len(found.measurements) == len(known.rows)
    curve = found.curves.query("run == 'sid-a1.0' and log == 'evaluation' and quantity == 'fd'")
    points = read_evaluations(folder / "students/sid-a1.0/evaluations.jsonl", "fd")
    assert list(zip(curve.nimg, curve.value)) == [(point.nimg, point.value) for point in points]
    assert found.claims.empty
    write_hashed_json(folder / "claims.json", {"claims": [{"id": "X-1", "verdict": "supported"}]})
    assert list(load(folder).claims.verdict) == ["supported"]
    with pytest.raises(UserError, match=r"measurements\.csv"):
        load(tmp_path)


def test_the_command_line_and_the_workflow_start_without_pandas():
    modules = "workflow.preset.rehearsal, eval.report.compare, eval.tables, eval.figures"
    code = f"import sys, eval.commands, workflow.cli, {modules}; print({{'pandas', 'jinja2'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
