"""Throw-away working directories that share the sources by links, so that tests never touch the real results."""

import copy
import csv
import functools
import importlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml

from sida.config.lookup import ROOT
from sida.config.named_files import find_file
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors
from sida.workflow.preset import Preset, load_preset, preset_from
from sida.workflow.preset.files import find_preset, presets, read_preset

#: Shipped presets that change no other.
PRESETS = [path for path in presets().values() if "\nbase: " not in path.read_text()]
SHARED = [
    "Snakefile",
    "workflow",
    "profiles",
    "config",
    "studies",
    "sida",
    "plugins",
    "eval",
    "tests",
    "environment.yml",
]
SHARED += ["pyproject.toml"]


def put(path: Path, text: str = "") -> Path:
    """Writes a file, in a new folder if there is none; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def heed_interrupts() -> None:
    """For ``preexec_fn``: SIGINT ends the program, also where the tests themselves were started in the background.

    What a script starts in the background inherits that it is ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@functools.cache
def shipped(name: str) -> Preset:
    """A shipped preset by its name or path; nobody changes it."""
    return load_preset(find_preset(name))


def settings_of(name: str | Path) -> dict[str, Any]:
    """Settings of a shipped preset with its files by path, for a preset in another folder."""
    config, _, own = read_preset([find_preset(name)])
    for key, kind in (("runs", "runs"), ("claims", ""), ("protocol", "protocols")):
        if config.get(key):
            config[key] = str(find_file(kind, config[key], own))
    return config


def changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of settings with other values by key (``a/b``); the value ``...`` removes a key."""
    made = copy.deepcopy(dict(document))
    for path, value in changes.items():
        *keys, last = path.split("/")
        node = functools.reduce(dict.__getitem__, keys, made)
        # What is done to a preset does not reach the values of other tests.
        node[last] = copy.deepcopy(value)
        if value is ...:
            del node[last]
    return made


TINY = "tests/workflow/tiny.yaml"
with open(ROOT / "tests/workflow/tiny.tsv", newline="", encoding="utf-8") as _file:
    #: Cells of the tiny preset's rows.
    ROWS = {row.pop("run"): {k: v for k, v in row.items() if v} for row in csv.DictReader(_file, delimiter="\t")}


def study(
    folder: Path, changes: Mapping[str, Any] | None = None, rows: Mapping[str, Any] = ROWS, base: str = TINY
) -> Preset:
    """A shipped preset without claims, with changes and files of its own in a folder.

    Args:
        folder: The folder.
        changes: As of :func:`changed`: settings, cells (``rows/RUN/COLUMN``), and files (``tables/x.yaml``), which are
            text or what stands in YAML.
        rows: Rows of its sheet.
        base: The shipped preset.
    """
    changes = dict(changes or {})
    files = {name: changes.pop(name) for name in [*changes] if name.endswith((".yaml", ".tsv"))}
    cells = {name.removeprefix("rows/"): changes.pop(name) for name in [*changes] if name.startswith("rows/")}
    sheet = [{"run": run} | row for run, row in changed(rows, cells).items()]
    columns = list(dict.fromkeys(name for row in sheet for name in row))
    lines = [columns, *([str(row.get(name, "")) for name in columns] for row in sheet)]
    for name, content in ({"runs.tsv": "".join("\t".join(line) + "\n" for line in lines)} | files).items():
        put(folder / name, content if isinstance(content, str) else yaml.safe_dump(content))
    settings = settings_of(base) | {"runs": "runs.tsv", "claims": None}
    return preset_from(changed(settings, changes), "preset.yaml", [folder])


class Workspace:
    """Links to the sources beside its own ``results`` and ``.snakemake``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in SHARED:
            (folder / name).symlink_to(ROOT / name)
        # The preset `published` writes beside the published numbers.
        (folder / "results" / "published").mkdir(parents=True)
        for path in (ROOT / "results" / "published").glob("published*.csv"):
            shutil.copy(path, folder / "results" / "published")

    def config(self, base: str = "tests/workflow/tiny.yaml", name: str = "changed.yaml", **changes) -> str:
        """Writes a changed copy of a preset; ``a__b=value`` sets ``a.b``, the value ``...`` removes the key."""
        settings = yaml.safe_load((ROOT / base).read_text())
        document = changed(settings, {path.replace("__", "/"): value for path, value in changes.items()})
        (self.folder / name).write_text(yaml.safe_dump(document))
        return name

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "snakemake"), "--cores", "2", *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def forked(self, *arguments: str) -> tuple[Any, str]:
        """Exit status and Snakemake's own words of a run in a child of this process; jobs are processes as ever."""
        return forked_snakemake(self.folder, *self.command(*arguments)[1:], environment=self.environment())

    def made(self, *arguments: str) -> None:
        """A run in a child of this process, which must end well; what its jobs say is not kept."""
        status, said = self.forked(*arguments)
        assert status == 0, said[-6000:]

    def done(self, *arguments: str, status: int = 0) -> str:
        """What a run says, which must end with this status."""
        if "-n" in arguments:
            # A dry run needs no interpreter of its own, whose start takes seconds.
            found, said = self.forked(*arguments)
        else:
            place = {"cwd": self.folder, "env": self.environment()}
            run = subprocess.run(self.command(*arguments), **place, capture_output=True, text=True, timeout=3600)
            found, said = run.returncode, run.stdout + run.stderr
        assert found == status, said[-6000:]
        return said

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs would run, by rule."""
        return jobs_in(self.done("-n", *arguments))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a run in a process group of its own (see :func:`kill_group`)."""
        log = open(self.folder / "run.log", "ab")  # noqa: SIM115 - lives as long as the run
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )


#: Arguments of a U-Net of the demo's shape with few parameters.
SMALL_UNET = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": "SongUNet", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "augment_dim": 9,
}  # fmt: skip


def beside_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in ``work``; a cache and a registry of its own, ``assets.tsv``, lie beside it."""
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_ASSETS", str(tmp_path / "assets.tsv"))
    (tmp_path / "work").mkdir()
    return Workspace(tmp_path / "work")


def forked_snakemake(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[Any, str]:
    """Exit status and output of Snakemake in a child that has imported it already: seconds less than a start anew."""
    import snakemake.cli  # noqa: F401 - once, for all children

    here, there = multiprocessing.Pipe(duplex=False)
    task = (arguments, folder, environment or {}, there)
    child = multiprocessing.get_context("fork").Process(target=_snakemake, args=task)
    child.start()
    there.close()
    answer = here.recv() if here.poll(3600) else (None, "no end")
    child.join(30)
    return answer


def _snakemake(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], connection: Connection) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    # The start reads the command line; this process has that of the tests.
    sys.argv = ["snakemake", *arguments]
    text = io.StringIO()
    status: object = 1
    with redirect_stdout(text), redirect_stderr(text):
        # Snakemake's log goes to the descriptors themselves.
        try:
            from snakemake.cli import main

            # Imported first in a test with `capsys`, it has kept a stream that no job can write to.
            importlib.import_module("snakemake.shell").__dict__["STDOUT"] = None
            main(list(arguments))
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
    connection.send((status, text.getvalue()))
    connection.close()


def jobs_in(said: str) -> dict[str, int]:
    """Number of jobs by rule in what a dry run says."""
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    assert jobs.pop("total", 0) == sum(jobs.values())
    return jobs


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def kill_group(process: subprocess.Popen[bytes], sign: int = signal.SIGKILL) -> None:
    """Sends a signal to a run and all its jobs and waits for the leader."""
    os.killpg(process.pid, sign)
    process.wait(timeout=60)


COLUMNS = "run\tfamily\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\n"
SHEET = (
    COLUMNS + "teacher\tTeacher\tEDM\tteacher\tdigits-short\t\t\t\theun-10\n"
    "sid\tOne Step\tSiD\tsid\tdigits-short\t\t1.0\tsid\tone-step\n"
)


def small(folder: Path) -> tuple[Workspace, tuple[str, ...]]:
    """A workspace with the preset, and the arguments of its run."""
    workspace = Workspace(folder)
    (folder / "small.tsv").write_text(SHEET)
    training = {"total_kimg": 0.256, "batch_size": 32, "lr": 3.0e-3, "tick_kimg": 0.064, "state_minutes": 0}
    recipe = {**training, "evaluation": {"every_kimg": 0.128, "num_samples": 100, "trials": 1}}
    changes = {
        "preset": "small",
        "runs": "small.tsv",
        "claims": None,
        "figures": [],
        "recipes": {"sid": recipe},
    }
    config = workspace.config(**changes, **{"teachers__digits-short__training": training})
    return workspace, ("--configfile", config, "--", "results/small/tables/main.tex")


def outcome(workspace: Workspace, networks: bool = True) -> dict[str, Any]:
    """The table as it is written but for its dates, all measured values, and with networks the
    logs' losses and the weights.
    """
    results = workspace.folder / "results/small"
    day = r"20\d\d-\d\d-\d\d(T[\d:]+Z)?"
    # Trials of one second or day have one date between them.
    date = re.compile(f"{day}( (to )?{day})*")
    found = {path.name: date.sub("", path.read_text()) for path in sorted((results / "tables").glob("main.*"))}
    measured = (results / "collected/tables/main.csv").read_text().splitlines()
    found["measured"] = [line.split(",")[:5] for line in measured]
    for path in sorted(results.glob("*/*/network.safetensors")) if networks else []:
        name = str(path.relative_to(results))
        found[name] = {key: value.tolist() for key, value in read_tensors(path)[0].items()}
        found[f"log of {name}"] = [(line["nimg"], line["losses"]) for line in read_jsonl(path.parent / "train.jsonl")]
    return found
