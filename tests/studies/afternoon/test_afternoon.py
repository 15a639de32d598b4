"""The preset afternoon: a counterpart of each table and figure of the paper, from rows that are all shown."""

import json

import pytest

from sida.config.lookup import ROOT
from sida.eval.tables.build import make_table
from sida.eval.tables.render import to_markdown
from sida.workflow.commands.archive import table_of
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import find_needs, product
from tests.plugins import needs
from tests.workflow.workspace import shipped

STUDY = ROOT / "studies/afternoon"


@pytest.fixture(scope="module")
def preset():
    return shipped("afternoon")


def test_each_table_and_figure_has_its_counterpart_and_each_row_is_shown(preset):
    check_preset(preset)
    shown = set()
    for kind, numbers in (("tables", 8), ("figures", 10)):
        assert list(preset.layouts[kind]) == [f"digits-{kind[:-1]}{k}" for k in range(1, numbers + 1)]
        for name in preset.layouts[kind]:
            needs = find_needs(kind, preset.layout(kind, name), preset.runs)
            shown |= {*needs.networks, *needs.measured}
    assert set(preset.runs) - shown - preset.starts == set()


@pytest.mark.slow
@needs("planner")
def test_the_plan_takes_five_core_hours():
    from sida.plugins.planner.plan import make_plan

    plan = make_plan([STUDY / "preset.yaml"], fresh=True)
    assert sum(job.gpu_hours for job in plan.jobs.values()) <= 5


def cells_of(lines):
    return {tuple(cell.strip() for cell in line.split("|")) for line in lines}


def test_stored_rows_fill_every_cell_and_the_page_prints_them(preset, tmp_path):
    page = (STUDY / "README.md").read_text()
    for name in preset.layouts["tables"]:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(spec := product(preset, "tables", name).spec))
        table = make_table(preset.layout("tables", name), STUDY / "stored", path, spec=spec, results=STUDY / "stored")
        assert "not measured" not in str(table), name
        shown = to_markdown(table_of(preset, name, STUDY / "stored")).splitlines()
        rows = [line for line in shown if line.startswith("| ")][1:]
        assert name == "digits-table8" or cells_of(rows) <= cells_of(page.splitlines()), name
