"""Fixtures of tests of measuring: a cache that knows the references and networks of published numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sida.data import load_dataset
from sida.eval.results.measurements import load_measurements
from sida.eval.results.sheet import read_runs
from sida.workflow.cli import main
from tests.eval.measuring.specs import DIGITS
from tests.eval.metric_networks import tiny_dino
from tests.eval.synthetic_output import inputs_of, write_lock, write_preset


@pytest.fixture(scope="session")
def recorded_cache(tmp_path_factory):
    """A cache with records of downloads, and without the files."""
    return write_lock(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def dinov2(monkeypatch):
    """A small network in the place of DINOv2."""
    monkeypatch.setattr("sida.eval.features.dinov2.load_hub_model", tiny_dino)


@pytest.fixture(scope="session")
def digits():
    """All digits and their classes, as arrays."""
    data = load_dataset(DIGITS)
    return data.images(range(len(data))).numpy(), data.class_indices.numpy()


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    """Folder of a preset with made-up results; tests only read it."""
    return write_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Folder of a preset like the demo, with its table, figure, verdicts and page; tests only read it."""
    folder = write_preset(tmp_path_factory.mktemp("study") / "made-up")
    inputs, results = inputs_of(folder), ["--results", str(folder)]
    figure = ["figure", "--layout", "config/figures/convergence.yaml", *inputs, *results]
    claims = ["claims", "--claims", "studies/demo/claims.py", *inputs, *results]
    assert main(["table", "main", *inputs, "--out", str(folder / "tables/main.tex")]) == 0
    assert main([*figure, "--out", str(folder / "figures/convergence.pdf")]) == 0
    assert main([*claims, "--out", str(folder / "claims.md")]) == 0
    page = ["page", str(folder), "--title", "Made up & shown", "--again", "snakemake --cores 2"]
    assert main([*page, "--out", str(folder / "index.html")]) == 0
    return folder


@pytest.fixture
def copied(study, tmp_path):
    """The study's folder as a copy that a test may change."""
    return Path(shutil.copytree(study, tmp_path / "p"))


@pytest.fixture(scope="session")
def measured(preset):
    """Measurements of the preset."""
    return load_measurements(preset / "measurements.csv")


@pytest.fixture(scope="session")
def runs(preset):
    """Sheet of the preset by run."""
    return {run.run: run for run in read_runs(preset / "runs.tsv")}


@pytest.fixture
def refusal(capsys):
    """The one line that a command is refused with."""

    def refusal(*command):
        capsys.readouterr()
        assert main([*command]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return refusal


@pytest.fixture(autouse=True)
def _registered(recorded_cache, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(recorded_cache))
