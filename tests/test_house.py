"""Imports never go up, and heavy packages are imported only where they are needed.

A room (a module or sub-package directly in a package) knows no room of a higher floor.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sida.config.lookup import ROOT
from sida.config.settings import names_object

#: Rooms of each package by floor, the ground floor first. Imports in functions and for type checking count, too.
FLOORS = {
    "sida": (
        {"errors", "late"},
        {"files", "machine", "prefetch"},
        {"config"},
        {"assets", "noise"},
        {"networks"},
        {"data"},
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
        {"archive", "cli", "interrupts", "preset"},
        {"checks", "planning"},
        {"settings"},
        {"commands"},
        {"launch", "snakemake", "start"},
    ),
}
PACKAGES = [*FLOORS]


def imports(path: Path) -> set[tuple[str, str]]:
    """Packages and their rooms that a file imports anywhere."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {(package_of(name), without_package(name).partition(".")[0]) for name in names}


def without_package(name: str) -> str:
    """A module's name below its package (:data:`FLOORS`): ``sida.eval.metrics`` is ``metrics``."""
    return name.removeprefix("sida.").removeprefix("eval.").removeprefix("workflow.")


def package_of(name: str) -> str:
    """Package of a module (:data:`FLOORS`): ``sida.eval.metrics`` is of ``eval``, ``sida.files`` of ``sida``."""
    top, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return room if top == "sida" and room in ("eval", "workflow") else top


def named_objects(path: Path) -> set[str]:
    """Packages of the objects ``module:object`` that texts of a file name."""
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    names = [text for text in texts if isinstance(text, str) and names_object(text)]
    return {package_of(name.partition(":")[0]) for name in names}


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
        assert not named_objects(path) & {*above}, f"{path} names an object of a package above"


#: What starts in one process, one after another, without the packages that it must not import.
STARTS = """
import contextlib, sys

def absent(*names):
    assert not (found := {*names} & {*sys.modules}), found

import sida.eval
absent("torch", "numpy", "pandas", "scipy", "PIL")
assert "load" in dir(sida) and "score" in dir(sida.eval)
from sida.workflow import cli
for verb in cli.all_verbs():
    with contextlib.suppress(SystemExit):
        cli.main([verb, "--help"])
absent("torch", "numpy", "pandas", "scipy", "matplotlib")
assert cli.main(["manifest", sys.argv[1], "--out", sys.argv[1] + "/manifest.json"]) == 0
import sida.eval.features
from sida.eval.measuring.protocol import load_protocol
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.products import everything
load_protocol("digits")
preset = load_preset("studies/demo/preset.yaml")
check_preset(preset)
assert everything(preset)
absent("torch")
import sida.eval.commands, sida.eval.figures.layout, sida.eval.report.paper, sida.eval.tables.build
absent("pandas", "jinja2")
print(len(cli.all_verbs()))
"""


def test_what_needs_no_large_package_imports_none(tmp_path):
    done = subprocess.run([sys.executable, "-c", STARTS, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Every help has examples.
    assert done.stdout.splitlines()[-1] == str(done.stdout.count("examples:"))
