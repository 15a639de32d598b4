"""Rows and table of edm2_sCM's released students: each file has a row, each printed number of these students a cell."""

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.registries import FOLDER
from sida.config.samplers import read_sampler
from sida.eval.results.published import load_published
from sida.eval.tables.layout import load_layout
from tests.workflow.workspace import shipped


def test_rows_have_the_files_steps_and_exposure_of_the_printed_numbers():
    preset, published = shipped("trigflow"), load_published()
    files = load_registry().keys() - load_registry(ROOT / "config/assets.tsv").keys()
    assert {run.checkpoint for run in preset.runs.values()} == {
        file for file in files if not file.startswith("fid-ref")
    }
    shown = load_layout(FOLDER / "trigflow/tables/trigflow.yaml").rows
    assert {row.run for row in shown} == {*preset.runs}
    numbers = {row.published.format(metric="fid"): preset.rows[row.run] for row in shown if row.published}
    printed = {key for key in published if "mathew" in key and not ("-mscd-" in key or "moment-matching" in key)}
    assert numbers.keys() == printed
    for key, row in numbers.items():
        assert key.endswith(f"-nfe{read_sampler(row.sampler).nfe}-fid")
        assert "imagenet64" in key or row.cells.dataset == "cifar10-uncond"
        assert row.cells.saw == "choice:inception"
