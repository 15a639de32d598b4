"""Columns about the tuning of a row's recipe, from the trials that ``sida tune`` wrote."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from eval.tables import build_table, load_layout
from sida.errors import UserError

TRIALS = """method,teacher,kimg,trial,fd,fd_end,diverged,seconds,settings
sid,t,3,1,4.0,4.0,,6,"{}"
sid,t,3,2,8.0,99,yes,6,"{}"
sid,t,3,3,6.0,6.0,,6,"{}"
sid,t,3,edge-lr,1.0,1.0,,6,"{}"
sid,t,12,1,3.0,3.0,,30,"{}"
sid,t,12,3,3.0,3.0,,42,"{}"
"""
COLUMNS = [
    {"head": "Model", "field": "label"},
    {"head": "FD", "metric": "fd"},
    *(
        {"head": name, "field": name}
        for name in ("settings", "settings_range", "settings_diverged", "seconds_per_kimg")
    ),
]


@pytest.fixture
def table(measured, runs, tmp_path):
    """Builds a table whose first row has a tuned recipe."""

    def build(**layout):
        rows = [{"run": "sid-a1.0"}, {"run": "sida-a1.0"}]
        (tmp_path / "layout.yaml").write_text(yaml.safe_dump({"columns": COLUMNS, "rows": rows, **layout}))
        tuned = dataclasses.replace(runs["sid-a1.0"], recipe="sid-t")
        return build_table(load_layout(tmp_path / "layout.yaml"), measured, {**runs, tuned.run: tuned})

    return build


def test_a_row_shows_the_tuning_of_its_recipe(table, tmp_path):
    (tmp_path / "trials.csv").write_text(TRIALS)
    tuned, other = table(trials_of="trials.csv").rows
    # Beyond the edge is a setting, but none of those drawn equally for all methods.
    assert [cell.plain for cell in tuned.cells[2:]] == ["4", "4.0 / 6.0 / 8.0", "1 of 3", "3.0"]
    assert [cell.plain for cell in other.cells[2:]] == [""] * 4


def test_faults_name_the_file_and_the_key(table, tmp_path):
    with pytest.raises(UserError, match=r"layout\.yaml.*trials_of"):
        table()
    with pytest.raises(UserError, match=r"trials\.csv"):
        table(trials_of="trials.csv")
    (tmp_path / "trials.csv").write_text(TRIALS.replace("diverged", "ended"))
    with pytest.raises(UserError, match=r"trials\.csv.*'diverged'"):
        table(trials_of="trials.csv")
