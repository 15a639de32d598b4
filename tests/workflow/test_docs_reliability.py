"""The page of faults: each row names a test that exists, and the number of kills that this test does."""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from functools import cache

import pytest
import torch

from sida.config.resources import ROOT
from sida.files.tensors import entries_for
from sida.networks import build_network
from workflow.preset import Preset

PAGE = ROOT / "docs/reliability.md"
LINK = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)")


def faults() -> Iterator[list[str]]:
    """Cells of the rows of the page's tables of faults; a table of limits is another."""
    inside = False
    for line in PAGE.read_text().splitlines():
        inside = line.startswith("| fault ") or (inside and line.startswith("|"))
        if inside and not line.startswith(("|---", "| fault ")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


ROWS = [*faults()]


@cache
def found_in(file):
    """Names of a file's tests, and how often some of them kill."""
    body = ast.parse((ROOT / file).read_text()).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    assigned = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KILLS"]
    return names, ast.literal_eval(assigned[0].value) if assigned else {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_has_a_test_that_exists_and_its_number(row):
    assert len(row) == 6
    links = LINK.findall(row[5])
    assert links, "no test is named"
    numbers = set()
    for name, file in links:
        names, kills = found_in(file)
        assert name in names
        numbers.add(str(kills.get(name, "–")))
    assert numbers == {row[2]}


def test_every_test_that_counts_kills_has_a_row():
    named = {name for row in ROWS for name, _ in LINK.findall(row[5])}
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"^KILLS = ", path.read_text(), re.M)]
    assert len(files) >= 3
    for path in files:
        assert found_in(path.relative_to(ROOT))[1].keys() <= named, path.name


def test_limits_beside_the_published_network_with_most_tensors():
    teacher = Preset.load("studies/papers/paper.yaml").settings.teachers["teacher-edm-ffhq64-ve"]
    net = build_network(teacher.network)
    modules, state = [name for name, _ in net.named_modules()], net.state_dict()
    entries = entries_for((name, "F32", value.shape) for name, value in state.items())
    places = {entry.name: [entry.begin, entry.begin + entry.num_bytes] for entry in entries}
    fields = {e.name: {"dtype": "F32", "shape": e.shape, "data_offsets": places[e.name]} for e in entries}
    header = json.dumps(fields, separators=(",", ":"))
    torch.save({name: torch.zeros(1) for name in state}, saved := io.BytesIO())
    directory = saved.tell() - zipfile.ZipFile(saved).start_dir
    deep, longest = 1 + max(name.count(".") for name in modules), max(map(len, state))
    page = PAGE.read_text()
    assert f"| {len(modules)} modules, {deep} deep, names of {longest} characters:" in page
    assert f"| {directory / 1000:.0f} kB: the same network's {len(state)} tensors" in page
    assert f"| {len(header) / 1000:.0f} kB, {sum(map(header.count, ',[{')):,} values: the same" in page
