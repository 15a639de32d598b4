"""Every verb without the packages that an installation may lack, and without docstrings."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sida.config.lookup import ROOT, missing_package
from sida.workflow.cli import all_verbs
from tests.plugins import needs
from tests.refused import command, refusing
from tests.workflow.workspace import put

#: Modules of packages with another name.
MODULE_OF = {"clean-fid": "cleanfid", "pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
#: Runs commands in one process that has none of the modules; prints status and errors of each.
WITHOUT = """
import contextlib, glob, io, json, sys, traceback
without, commands = map(json.loads, sys.argv[1:])
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in without:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in without else find_spec(name, *rest)
from sida.workflow.cli import main
ends = {}
for command in commands:
    command = [path for word in command for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(command)
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = errors.write(traceback.format_exc())
    ends[command[0]] = status, errors.getvalue()
print(json.dumps(ends))
"""
SHAPE = {"model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 8}
SHAPE |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
SPEC = {"name": "s", "dataset": {"name": "digits", "kind": "digits"}, "total_kimg": 0.064, "batch_size": 32}
SPEC |= {"tick_kimg": 0.064, "lr": 1e-4}
TEACHER = SPEC | {"network": {"class": "EDMPrecond", "kwargs": SHAPE}, "power_ema": [0.05, 0.1], "snapshot_kimg": 0.032}
DATA = {"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": "digits", "dataset": SPEC["dataset"]}
DEMO = ROOT / "studies/demo"
STORED = f"--measurements {DEMO}/stored/measurements.csv --runs {DEMO}/runs.tsv --results {DEMO}/stored"
#: Arguments of each verb, in this order, with which it ends with status 0 where everything is installed.
ARGUMENTS = {
    "train-teacher": ["--out", "teacher", "--spec", json.dumps(TEACHER)],
    "distill": [
        "--out",
        "mine",
        "--spec",
        json.dumps(SPEC),
        *["--method", "sid", "--teacher", "teacher/network.safetensors"],
    ],
    "average": "teacher/snapshots/*.safetensors --std 0.08 --out average.safetensors",
    "sample": "--network mine/network.safetensors --seeds 0-39 --out images.npz",
    "data": "prepare --source images.npz --out pictures.zip --labels none",
    "new": "own --data pictures.zip --resolution 8",
    "score": "images.npz --against images.npz --protocol pair-pixels --out row.json",
    "reference": "--images pictures.zip --extractor pixels --device cpu --out reference.safetensors",
    "sweep": "mine/network.safetensors teacher/network.safetensors --protocol digits --num-samples 400 --out sweep",
    "table": f"main {STORED} --out results/tables/main.tex",
    "cite": "",
    "presets": "",
    "settings": "lr",
    "show": "demo",
    "check": "demo data --trials 0",
    "verify": f"{DEMO}/stored",
    "board": "board.html",
    "assets": "list",
    "convert": "teacher/network.safetensors again.safetensors",
    "info": "mine/network.safetensors",
    "export": "mine/network.safetensors --to hf hub",
    "measure": ["--spec", json.dumps(DATA), "--out", "results/measurements/data", "--trials", "0"],
    "collect": "results/measurements --out results/measurements.csv",
    "claims": f"--claims {DEMO}/claims.py {STORED} --out claims.md",
    "figure": f"--layout convergence {STORED} --out figure.pdf",
    "page": "results --out page.html",
    "paper": "results",
    "manifest": "results --out results/manifest.json",
    "run": "demo -n",
    "plan": "demo",
    "doctor": "demo",
    "crate": "results",
    "completion": "bash",
}


def extras():
    """Modules of the packages that no import of the core needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [text for needed in project["optional-dependencies"].values() for text in needed]
    return sorted({MODULE_OF.get(name, name) for name in (Requirement(text).name for text in texts)})


def ends_without(modules, verbs, folder):
    """Status and errors of commands by verb, in one process that cannot import the modules."""
    commands = [[verb, *(words.split() if isinstance(words := ARGUMENTS[verb], str) else words)] for verb in verbs]
    run = [sys.executable, "-P", "-c", WITHOUT, json.dumps(modules), json.dumps(commands)]
    environment = os.environ | {"SIDA_OFFLINE": "1"}
    ended = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return {verb: tuple(end) for verb, end in json.loads(ended.stdout.splitlines()[-1]).items()}


@pytest.mark.slow
@needs("exchange", "planner", "sweep")
def test_each_verb_runs_without_extras_or_names_the_one_it_needs(tmp_path):
    assert ARGUMENTS.keys() == all_verbs().keys()
    ends = ends_without(extras(), ARGUMENTS, tmp_path)
    needing = dict.fromkeys(("run", "plan", "doctor"), "snakemake") | {"crate": "rocrate", "completion": "shtab"}
    for verb, (status, errors) in ends.items():
        if verb in needing:
            assert (status, f"package {needing[verb]}: " in errors, errors.count("\n")) == (1, True, 1), errors
        else:
            assert status == 0, f"{verb}: {errors}"


@pytest.mark.slow
@needs("exchange", "planner", "sweep")
def test_each_verb_without_a_package_of_the_core_runs_or_names_it(tmp_path):
    modules = ["matplotlib", "pandas", "jinja2", "PIL", "sklearn", "huggingface_hub", "tabulate", "scipy"]
    for verb, (status, errors) in ends_without(modules, ARGUMENTS.keys() - {"run"}, tmp_path).items():
        assert "Traceback" not in errors, f"{verb}: {errors}"
        assert status in (0, 1, 2)


@needs("planner")
def test_a_verb_that_needs_a_missing_package_names_it(tmp_path):
    needed = {"run": "snakemake", "plan": "snakemake", "doctor": "snakemake", "completion": "shtab"}
    for verb, (status, errors) in ends_without(["snakemake", "shtab"], needed, tmp_path).items():
        assert (status, f"package {needed[verb]}: " in errors, errors.count("\n")) == (1, True, 1), errors


def test_only_packages_that_this_one_needs_are_named():
    assert missing_package("mine") is None
    assert missing_package("torchvision.ops").where == "package torchvision"


def test_settings_without_docstrings_are_one_line(tmp_path):
    environment = os.environ | {"PYTHONOPTIMIZE": "2"}
    run = [Path(sys.executable).with_name("sida"), "settings", "alpha"]
    ended = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "PYTHONOPTIMIZE" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_option_is_refused_whose_second_value_would_replace_the_first(tmp_path):
    out = tmp_path / "x.safetensors"
    extractors = ["--extractor", "pixels", "--extractor=inception"]
    with refusing("--extractor"):
        command("reference", "--images", ROOT / "docs", *extractors, "--out", out)
    sets = [f"--against={put(tmp_path / name)}" for name in ("a.npz", "b.npz")]
    with refusing("--against"):
        command("score", put(tmp_path / "mine.npz"), *sets)
