"""The arrangement of the code: who may import whom, and how many rooms the measuring has."""

from __future__ import annotations

import re

import pytest

from benchmarks.house import imports, kept, rooms
from sida.config.resources import ROOT


@pytest.fixture
def package(tmp_path):
    """A package of three modules: top imports middle, middle imports ground."""
    folder = tmp_path / "house"
    (folder / "middle").mkdir(parents=True)
    (folder / "__init__.py").write_text("from house.top import x\n")
    (folder / "top.py").write_text("def f():\n    from house.middle.room import y\n    return y\n")
    (folder / "middle" / "room.py").write_text("from house import ground\nfrom house.middle import other\n")
    (folder / "ground.py").write_text("import json\n")
    return folder


def test_rooms_arrows_and_floors_of_a_package(package):
    found = rooms(package)
    assert found.names == ["ground", "middle", "top"]
    assert found.arrows == {("top", "middle"), ("middle", "ground")}
    assert found.floors == [["ground"], ["middle"], ["top"]]
    assert kept(found)


def test_a_circle_of_rooms_has_no_floors(package):
    (package / "ground.py").write_text("import house.top\n")
    found = rooms(package)
    assert found.floors is None
    assert not kept(found)


def test_the_method_knows_neither_measuring_nor_workflow():
    for path in sorted((ROOT / "sida").rglob("*.py")):
        assert not [name for name in imports(path) if re.match(r"(eval|workflow|snakemake)\b", name)], path
    for path in sorted((ROOT / "eval").rglob("*.py")):
        assert not [name for name in imports(path) if re.match(r"(workflow|snakemake)\b", name)], path


def test_the_measuring_has_few_rooms_that_look_down_only():
    found = rooms(ROOT / "eval")
    assert kept(found), found


def test_only_commands_see_parsed_arguments():
    for folder in ("sida", "eval"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            allowed = path.parent.name == "commands" or path == ROOT / "sida" / "cli.py"
            assert allowed or "argparse" not in imports(path), path
