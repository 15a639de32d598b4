"""Arrangement of the code: rooms, floors, and who may import whom."""

import ast
import re
from collections import defaultdict

import pytest

from benchmarks.house import FLOORS, Size, arrangement, imports
from sida.config.resources import ROOT

HOUSE = (("ground",), ("middle",), ("top",))


@pytest.fixture
def package(tmp_path):
    """A package of three rooms: top imports middle, middle imports ground."""
    folder = tmp_path / "house"
    (folder / "middle").mkdir(parents=True)
    (folder / "__init__.py").write_text("from house.top import x\n")
    (folder / "top.py").write_text("def f():\n    from house.middle.room import y\n    return y\n")
    (folder / "middle" / "room.py").write_text("from house import ground\nfrom house.middle import other\n")
    (folder / "ground.py").write_text("import json\n")
    return folder


def test_rooms_and_arrows_of_a_package(package):
    found = arrangement(package, HOUSE)
    assert found.rooms == ["ground", "middle", "top"]
    assert found.arrows == {("top", "middle"), ("middle", "ground")}
    assert found.sound


@pytest.mark.parametrize(
    "text",
    ["import house.top\n", "def f():\n    import house.top\n", "if TYPE_CHECKING:\n    from house.top import f\n"],
)
def test_an_upward_arrow_is_found_wherever_it_stands(package, text):
    (package / "ground.py").write_text(text)
    found = arrangement(package, HOUSE)
    assert found.upward == [("ground", "top")]
    assert found.circles == [["house.ground", "house.middle.room", "house.top"]]


def test_a_new_room_needs_a_floor(package):
    (package / "attic.py").write_text("")
    assert arrangement(package, HOUSE).undeclared == ["attic"]


def test_a_circle_within_a_room_is_found(package):
    (package / "middle" / "other.py").write_text("from house.middle.room import y\n")
    found = arrangement(package, HOUSE)
    assert found.circles == [["house.middle.other", "house.middle.room"]]
    assert not found.upward


def test_code_is_neither_blank_nor_comment_nor_docstring(tmp_path):
    lines = ('"""About."""', "import a", "", "# Why.", "def f():", '    """What.', "", '    More."""', "    return a")
    (tmp_path / "m.py").write_text("\n".join(lines) + "\n")
    assert Size.of(tmp_path / "m.py") == Size(lines=9, code=3, imports=1, functions=[5])


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_the_packages_are_sound(name):
    found = arrangement(ROOT / name, FLOORS[name])
    assert (found.undeclared, found.upward, found.circles) == ([], [], [])


def test_the_method_knows_neither_measuring_nor_workflow():
    for path in sorted((ROOT / "sida").rglob("*.py")):
        assert not [name for name in imports(path) if re.match(r"(eval|workflow|snakemake)\b", name)], path
    for path in sorted((ROOT / "eval").rglob("*.py")):
        assert not [name for name in imports(path) if re.match(r"(workflow|snakemake)\b", name)], path


def test_only_commands_see_parsed_arguments():
    for folder in ("sida", "eval"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            allowed = path.parent.name == "commands" or path.parent == ROOT / "sida" / "cli"
            assert allowed or "argparse" not in imports(path), path


#: Public names that several modules have by design: those of commands and programs, type variables, `sida.load` and
#: `eval.results.load`.
SHARED = {"ABOUT", "EXAMPLES", "HELP", "T", "arguments", "load", "main", "run"}


def test_public_names_are_unique():
    """Classes, functions and constants; a name that two modules define would mean two things."""
    homes = defaultdict(list)
    for path in sorted(path for package in FLOORS for path in (ROOT / package).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for name in {getattr(target, "id", getattr(target, "name", "_")) for target in targets}:
                homes[name].append(str(path.relative_to(ROOT)))
    twice = {name: paths for name, paths in homes.items() if len(paths) > 1 and not name.startswith("_")}
    assert {name: paths for name, paths in twice.items() if name not in SHARED} == {}
