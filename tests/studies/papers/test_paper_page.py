"""docs/paper.md, docs/retrain.md: commands that make tables, figures and rows of the paper, with the plan's hours."""

import re

import pytest

from sida.config.lookup import ROOT
from sida.workflow.planning.costs import Costs
from sida.workflow.preset.jobs import layout_needs, training
from sida.workflow.preset.targets import Targets
from tests.workflow.workspace import shipped

PAGE = (ROOT / "docs/paper.md").read_text()
#: Cells of a line of the page: number of the table or figure, content, command, hours, ...
LINES = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if re.match(r"\| \d", line)
]
TABLES, FIGURES = LINES[:8], LINES[8:]


@pytest.fixture(scope="module")
def costs():
    return {name: Costs(shipped(name), "H200", gpus=8, fresh=True) for name in ("released", "paper")}


def trainings(costs, kind, name):
    preset, needs = costs.preset, layout_needs(costs.preset, kind, name)
    rows = [run for run in dict.fromkeys([*needs.measured, *needs.networks]) if preset.runs[run].trained_here]
    return sum(costs.of("students", run).gpu_hours for run in rows)


def test_all_tables_and_figures_have_a_command():
    assert [line[0] for line in LINES] == [*"12345678", *"12345", "6 to 10"]
    for _, _, command, *_ in LINES:
        preset, target = re.match(r"`sida run (\w+) ([\w./-]+)`", command).groups()
        assert Targets(shipped(preset)).paths_of(target)


@pytest.mark.slow
def test_hours_are_the_plans(costs):
    released, paper = costs["released"], costs["paper"]
    for number, _, command, every, one_step, train, *_ in TABLES:
        if command.startswith("`sida run released"):
            rows = layout_needs(released.preset, "tables", f"table{number}").measured
            hours = {run: released.of("measurements", run).gpu_hours for run in rows}
            assert f"{sum(hours.values()):,.1f}" == every, number
            quick = sum(hours[run] for run in rows if released.preset.rows[run].nfe == 1)
            assert f"{quick:,.1f}" == one_step, number
        assert f"{trainings(paper, 'tables', f'table{number}'):,.0f}" == train, number
    for number, _, _, train, *_ in FIGURES[:-1]:
        assert f"{trainings(paper, 'figures', f'figure{number}'):,.0f}" == train, number
    slow = [run for run, row in released.preset.rows.items() if row.nfe and row.nfe > 1]
    teachers = {*layout_needs(released.preset, "tables", "teachers").measured} & {*slow}
    assert f"{sum(released.of('measurements', run).gpu_hours for run in teachers):,.0f} further hours" in PAGE


@pytest.mark.slow
def test_images_and_hours_of_each_recipe_are_the_plans(costs):
    paper = costs["paper"]
    shown = re.findall(r"^\| (edm\S+) \|(.*)\|.*GB \|$", (ROOT / "docs/retrain.md").read_text(), flags=re.M)
    assert len(shown) == 11
    for teacher, cells in shown:
        data = teacher.removeprefix("edm-").replace("afhqv2", "afhq64")
        names = ("sid-a1", "sid-a1.2", "sida-a1", "sid2a-a1", "sid2a-a1.2")
        for name, cell in zip(names, map(str.strip, cells.split("|")), strict=True):
            run = f"{data}-{name}" if teacher[:4] == "edm-" else f"{teacher}-{name.partition('-')[0]}"
            if cell:
                kimg, hours = training(paper.preset, run).spec["total_kimg"], paper.of("students", run).gpu_hours
                assert cell == f"{kimg / 1000:#.3g}".rstrip(".") + f": {hours:,.0f} h", run
