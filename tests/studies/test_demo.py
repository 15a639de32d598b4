"""The probe of `make demo`."""

import runpy

import pytest

from sida.config.lookup import ROOT
from sida.workflow.preset.measuring import measuring_parts
from tests.workflow.workspace import shipped


@pytest.mark.slow
def test_the_probe_counts_every_job_and_images_and_evaluations():
    job_seconds = runpy.run_path(str(ROOT / "studies/demo/probe.py"))["job_seconds"]
    preset, start = shipped("demo"), 2.0
    seconds = job_seconds(preset, start)
    measured = {f"{run} {first}-{last}" for first, last, rows in measuring_parts(preset) for run in rows}
    assert {*preset.teachers, *(row.run for row in preset.students)} | measured < {*seconds}
    assert min(seconds.values()) == start
    work = {name: value - start for name, value in seconds.items()}
    # The teacher takes 35 evaluations for an image, and SiD²A's row has fewer images than SiD's.
    of = lambda run: sum(work[name] for name in measured if name.startswith(f"{run} "))
    assert of("teacher-nfe35") > 10 * of("sida-a1.0") > 0
    assert 0 < work["sid2a-a1.0"] < work["sid-a1.0"]
