"""Imports never go up: a room (a module or sub-package directly in a package) knows no room of a higher floor."""

import ast
from pathlib import Path

import pytest

from sida.config.resources import ROOT

#: Rooms of each package by floor, the ground floor first. Imports in functions and for type checking count, too.
FLOORS = {
    "sida": (
        {"errors", "late"},
        {"files", "machine"},
        {"config"},
        {"assets", "noise"},
        {"networks"},
        {"data", "kernels"},
        {"sampling"},
        {"training"},
        {"methods"},
        {"cli"},
    ),
    "eval": (
        {"contrasts", "features"},
        {"metrics"},
        {"results"},
        {"measuring"},
        {"figures", "tables"},
        {"claims", "scoring"},
        {"report"},
        {"commands"},
    ),
    "workflow": (
        {"archive", "cli", "preset"},
        {"checks", "planning"},
        {"rehearsal"},
        {"commands"},
        {"launch", "start"},
    ),
}
PACKAGES = [*FLOORS]


def imports(path: Path) -> set[tuple[str, str]]:
    """Packages of this repository and their rooms that a file imports anywhere."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return {(package, name.partition(".")[0]) for package, _, name in (one.partition(".") for one in found)}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_never_go_up(package):
    level = {room: number for number, floor in enumerate(FLOORS[package]) for room in floor}
    above = PACKAGES[PACKAGES.index(package) + 1 :]
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in level, f"{path}: room '{room}' has no floor here"
        for other, target in imports(path):
            assert other not in above, f"{path} imports {other}"
            up = other == package and target in level and level[target] > level[room]
            assert not up, f"{path} imports {target}, which is on a higher floor"
