"""The notebooks of ``examples``: stored without outputs but one picture each, and each runs to its number."""

import re

import nbformat
import pytest

from tools.run_notebooks import NOTEBOOKS, last_line, run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_one_picture_and_a_speed_run_on_top(path):
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert [list(output.data) for output in outputs] == [["image/png"]]
    assert all(cell.get("execution_count") is None for cell in cells)
    assert path.stat().st_size < 60_000
    assert re.search(rf"examples/{path.name}` · .*minutes? .* · FD \d", cells[0].source)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_the_number_on_its_top(path):
    pytest.importorskip("nbclient", reason="make extras")
    notebook = run(path)
    wanted = float(re.search(r" · FD ([\d.]+)", notebook.cells[0].source)[1])
    assert float(re.search(r"([\d.]+)( after)?$", last_line(notebook))[1]) == pytest.approx(wanted, rel=0.2)
