"""Imports never go up, and heavy packages are imported only where they are needed.

A room (a module or sub-package directly in a package) knows no room of a higher floor.
"""

import argparse
import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sida.cli.main import parser_of
from sida.config.lookup import ROOT, our_object
from sida.config.registries import CORE
from sida.config.settings import names_object
from sida.workflow.cli import all_verbs

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


@pytest.mark.parametrize("package", PACKAGES)
def test_a_registry_names_no_object_of_a_package_above_its_reader(package):
    core = tomllib.loads(CORE.read_text())
    above = {f"{name}." for name in PACKAGES[PACKAGES.index(package) + 1 :]}
    texts = [path.read_text() for path in (ROOT / package).rglob("*.py")]
    # A name that is missing is looked for in the index of the plugins.
    read = re.compile(r'(?:Registry(?:\[.+\])?|entries)\("(\w+)"(?!.*missing)')
    tables = {table for text in texts for table in read.findall(text)}
    assert tables
    for table in tables & core.keys():
        objects = [entry if isinstance(entry, str) else entry.get("object", "") for entry in core[table].values()]
        assert not [name for name in objects if name.startswith((*above, "plugins."))], table


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
from sida.workflow.preset.jobs import everything
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


def _examples():
    """Lines of every verb's help that are commands, without remarks and lists of further words."""
    for name, listed in all_verbs().items():
        verb = our_object(listed.object)
        # A command may go on below, after a backslash or within quotation marks.
        text = re.sub(r"'[^']*'", lambda quoted: re.sub(r"\n *", " ", quoted[0]), re.sub(r"\\\n *", " ", verb.examples))
        for line in text.splitlines():
            if line.startswith(f"  sida {name} "):
                yield name, verb, re.split(r" {2,}(?!-)| > | \.\.\.", line.strip())[0]


def _without_types(parser):
    """The parser and those of its sub-commands, with values taken as they are: files need not exist."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _without_types(below)
        else:
            action.type = None
    return parser


#: Imports each module named by the arguments in a process of its own, after the libraries that many of them import.
ALONE = """
import importlib, os, sys
import matplotlib.pyplot, pandas, scipy.stats, torch
faults = []
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        faults.append(name)
sys.exit(' '.join(faults) or None)
"""


@pytest.mark.slow
def test_each_module_can_be_imported_first():
    """A circle of imports fails only in one order of its modules."""
    files = [
        path.relative_to(ROOT) for top in ("sida", "eval", "workflow", "plugins") for path in (ROOT / top).rglob("*.py")
    ]
    modules = [path.with_suffix("").parts for path in files if "tests" not in path.parts]
    names = [
        ".".join(parts if parts[0] == "sida" else ("sida", *parts)) for parts in modules if parts[-1] != "__main__"
    ]
    importable = [name.removesuffix(".__init__") for name in names if all(map(str.isidentifier, name.split(".")))]
    ended = subprocess.run(
        [sys.executable, "-c", ALONE, *importable], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr


def test_each_example_of_each_help_is_a_command_that_the_parser_takes():
    count = 0
    for name, verb, line in _examples():
        words = shlex.split(line, comments=True)
        assert "%%" not in line
        parser = _without_types(parser_of(name, verb, ""))
        own = words[2 : words.index("--")] if "--" in words else words[2:]
        parse = parser.parse_intermixed_args if verb.intermixed else parser.parse_args
        parse(own)
        count += 1
    assert count > 50, "the examples are no longer told from remarks"
