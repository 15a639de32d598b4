"""Fixtures of tests of measuring: a cache that knows the references and networks of published numbers."""

from __future__ import annotations

import pytest

from eval.results.sheet import read_runs
from eval.results.summary import load_measurements
from tests.eval.synthetic_output import write_lock, write_preset


@pytest.fixture(scope="session")
def recorded_cache(tmp_path_factory):
    """A cache with records of downloads, and without the files."""
    return write_lock(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    """Folder of a preset with made-up results; tests only read it."""
    return write_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="session")
def measured(preset):
    """Measurements of the preset."""
    return load_measurements(preset / "measurements.csv")


@pytest.fixture(scope="session")
def runs(preset):
    """Sheet of the preset by run."""
    return {run.run: run for run in read_runs(preset / "runs.tsv")}


@pytest.fixture(autouse=True)
def _registered(recorded_cache, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(recorded_cache))
