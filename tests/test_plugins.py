"""Plugins: the core does without each of them and without all, and imports none; each imports only what it says."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest

from sida.config import named_files, registries
from sida.config.lookup import ROOT
from sida.config.named_files import find_file
from sida.config.registries import (
    FOLDER,
    PACKAGE,
    REGISTRIES,
    TABLES,
    Registry,
    entries,
    missing_plugins,
    plugins,
)
from sida.errors import UserError
from sida.networks.folders import open_folder
from tests.plugins import index
from tests.refused import command, refused
from tools.plugins_index import rows

ALL = sorted(plugins())
#: Modules with arguments that must pass in a checkout without a plugin: style, types, rules, and that all tests of the
#: core can be imported.
COMMANDS = (
    "ruff check .", "mypy", "snakemake --lint", "pytest -n 0 -q -m not\\ slow tests/test_house.py",
    "pytest -n 0 --co -q tests --ignore tests/studies",
)  # fmt: skip
#: Tests of the core that run without any plugin.
CORE = "pytest -n 0 -q -m not\\ slow tests/methods tests/sampling tests/training tests/workflow/test_smoke.py"
#: Prints the digests of the demo's measurements, which cover the trainings.
DIGESTS = """
from sida.workflow.preset import load_preset
from sida.workflow.preset.specs import Jobs
preset = load_preset("studies/demo/preset.yaml")
print({name: Jobs(preset).digest("measurements", name) for name in preset.rows})
"""


def imported(path):
    """Modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses_of(plugin):
    """Plugins whose code a plugin imports, by its file."""
    return set(tomllib.loads((FOLDER / plugin / TABLES).read_text()).get("uses", ()))


def test_the_core_names_no_plugin():
    files = [path for package in ("sida", "eval", "workflow") for path in (ROOT / package).rglob("*.py")]
    files = [path for path in files if FOLDER not in path.parents]
    assert len(files) > 150
    named = re.compile(rf"sida\.plugins\.\w|plugins/({'|'.join(ALL)})\b")
    assert not [path for path in files if named.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("plugin", ALL)
def test_a_plugin_imports_no_other_but_those_that_its_file_names(plugin):
    uses = uses_of(plugin)
    assert uses <= {*ALL} - {plugin}
    names = {name for path in (FOLDER / plugin).rglob("*.py") for name in imported(path)}
    others = {name.split(".")[2] for name in names if name.startswith(f"{PACKAGE}.")}
    assert others - {plugin} == uses


def test_the_index_has_the_names_of_all_plugins():
    written = {tuple(row.values()) for row in index()}
    assert {*rows()} == {row for row in written if row[2] in ALL}


def forget():
    """Files of plugins are read again."""
    for cached in (plugins, entries, missing_plugins):
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``folder(NAME, TEXT)`` adds a plugin; the folder of plugins is empty."""
    monkeypatch.setattr(registries, "FOLDER", tmp_path)
    monkeypatch.setattr(named_files, "PLUGINS", tmp_path)
    forget()

    def add(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / TABLES).write_text(text)

    yield add
    forget()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[methods", "plugin.toml: cannot be read"),
        ("[method]\na = 'b:C'", "no registry 'method'.*methods"),
        ("methods = 'b:C'", "methods: must be a table, got 'b:C'"),
        ("[methods]\na = 'b'", r"methods\.a: must be 'module:object', got 'b'"),
        ("[methods]\na = 3", r"methods\.a: must be 'module:object', got 3"),
        ("uses = 'judges'", "uses: must be a list of plugins' names"),
        ("uses = 3", "uses: must be a list"),
        ("uses = [['judges']]", "uses: must be a list"),
        ("a = " + "[" * 3000, "plugin.toml: cannot be read"),
        ("a = 1" + "0" * 5000, "plugin.toml: cannot be read"),
        ("[verbs]\na = 'b:C'", r"verbs\.a: must be a mapping"),
        ("[verbs.a]\nobject = 'b:C'\ngroup = 'files'", r"verbs\.a\.help: is missing"),
    ],
)
def test_a_fault_in_the_file_of_a_plugin_is_told_at_its_place(folder, text, place):
    folder("mine", text)
    refused(place, plugins)


def test_the_file_of_a_plugin_is_an_ordinary_one(folder, tmp_path):
    folder("mine", "")
    (tmp_path / "mine" / TABLES).unlink()
    os.mkfifo(tmp_path / "mine" / TABLES)
    refused("mine/plugin.toml", plugins)


def test_a_plugin_is_not_here_without_those_that_it_uses(folder):
    folder("mine", "uses = ['other']\n[methods]\na = 'b:C'")
    assert plugins() == {}
    forget()
    folder("other", "")
    assert entries("methods")["a"].object == f"{PACKAGE}.mine.b:C"


def test_two_plugins_cannot_add_one_name_nor_replace_one_of_the_core(folder):
    folder("mine", "[methods]\na = 'b:C'")
    assert entries("methods")["a"].object == f"{PACKAGE}.mine.b:C"
    folder("other", "[methods]\na = 'd:E'\n[metrics]\nmean = 'd:E'")
    forget()
    refused("other/plugin.toml: methods.a: another plugin has it", entries, "methods")
    refused("other/plugin.toml: metrics.mean: the core has it", entries, "metrics")


VERB = "[verbs.{}]\nobject = 'none:NONE'\ngroup = '{}'\nhelp = 'Does it.'\n"


def test_the_help_lists_verbs_of_plugins_without_their_code(folder):
    folder("mine", VERB.format("mine", "files") + VERB.format("own", "more"))
    lines = command("--help").splitlines()
    assert (
        lines.index("  mine           Does it.") < lines.index("more:") == lines.index("  own            Does it.") - 1
    )


def test_a_verb_of_the_core_is_not_replaced_and_a_missing_one_names_its_plugin(folder):
    for name in (row["name"] for row in index() if row["registry"] == "verbs"):
        refused(f"verb '{name}' is in the plugin", command, name)
    folder("mine", VERB.format("score", "files"))
    forget()
    refused(r"mine/plugin.toml: verbs\.score: the core has it", command, "score")


@pytest.mark.parametrize("row", index(), ids=lambda row: f"{row['registry']}-{row['name']}")
def test_a_name_of_a_plugin_that_is_not_here_says_which_one(folder, row):
    registry, name = row["registry"], row["name"]
    find = Registry(registry, "thing").find if registry in REGISTRIES else lambda *_: find_file(registry, name)
    with pytest.raises(UserError, match=f"'{name}' is in the plugin {row['plugin']}, which is not here"):
        find(name, "place")


def test_a_folder_that_a_plugin_reads_names_it_where_it_is_not_here(folder, tmp_path):
    place = tmp_path / "pipeline/unet"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    refused("'unet/config.json' is in the plugin diffusers.*git checkout", open_folder, str(place.parent))


def digests(checkout):
    """Digests of the demo in a checkout, as text."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", DIGESTS]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("plugin", [*ALL, "all"])
def test_the_core_does_without(plugin, tmp_path):
    """Style, types and tests in a copy without a plugin; the demo's digests are the same there."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0")[:-1]:
        # Results of other studies are not read.
        if (ROOT / name).exists() and ("/stored/" not in name or name.startswith("studies/demo/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name, follow_symlinks=False)
    for name in ALL:
        if plugin in ("all", name, *uses_of(name)):
            shutil.rmtree(tmp_path / "plugins" / name)
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    if (cache := ROOT / ".mypy_cache").is_dir():  # mypy compares contents
        shutil.copytree(cache, tmp_path / ".mypy_cache")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for line in (*COMMANDS, *([CORE] if plugin == "all" else [])):
        words = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert digests(tmp_path) == digests(ROOT)
