"""Tables and figures name the rows they show, so that each can be made without the others."""

from __future__ import annotations

import pytest

from sida.config.resources import ROOT
from workflow.preset import Preset
from workflow.preset.files import find_preset
from workflow.preset.specs import find_needs

CONFIG, PAPERS = ROOT / "config", ROOT / "studies/papers"


@pytest.fixture(scope="module")
def demo():
    return Preset.load(find_preset("demo")).runs


def test_curves_read_logs_and_measure_what_they_mark(demo):
    needs = find_needs(CONFIG / "figures/convergence.yaml", demo)
    students = ["sid-a1.0", "sida-a1.0", "sid2a-a1.0"]
    assert needs.networks == students
    assert needs.measured == ["teacher-nfe35", *students]


def test_grids_need_networks_but_no_measurement(demo):
    needs = find_needs(CONFIG / "figures/samples.yaml", demo)
    assert needs.measured == []
    assert needs.networks == ["data", "teacher-nfe35", "sid-a1.0", "sida-a1.0", "sid2a-a1.0"]


def test_table_measures_its_rows(demo):
    needs = find_needs(CONFIG / "tables/main.yaml", demo)
    assert needs.measured == needs.networks == list(demo)


def test_rows_of_other_sheets_are_left_out(demo):
    assert find_needs(PAPERS / "tables/table1.yaml", demo).measured == []


def test_columns_and_variables_are_filled_in():
    runs = Preset.load(find_preset("released")).runs
    assert "edm2-xs-sid" in find_needs(PAPERS / "tables/table4.yaml", runs).measured
    assert "cifar10-uncond-sida-a1" in find_needs(PAPERS / "tables/table1.yaml", runs).measured


def test_hyperparameters_read_logs_only():
    needs = find_needs(ROOT / "studies/miniature/tables/mini-table8.yaml", Preset.load(find_preset("miniature")).runs)
    assert needs.measured == []
    assert {"t30-sid", "t30-sida"} <= set(needs.networks)


def test_faulty_layout_needs_every_row_and_leaves_the_message_to_the_builder(demo, tmp_path):
    layout = tmp_path / "x.yaml"
    layout.write_text("columns: [{head: A, field: label}]\nrows: [{each: {method: gdd}}]\n")
    assert find_needs(layout, demo).measured == list(demo)
    assert find_needs(tmp_path / "none.yaml", demo).measured == list(demo)


def test_pooled_rows_need_every_seed():
    needs = find_needs(ROOT / "studies/miniature/tables/mini-teachers.yaml", Preset.load(find_preset("miniature")).runs)
    assert {"t10-sida", "t10b-sida"} <= set(needs.measured)
