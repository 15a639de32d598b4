"""A throw-away working directory that shares the sources by links, so that tests never touch the real results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from sida.resources import ROOT

SHARED = ["Snakefile", "workflow", "profiles", "config", "sida", "eval", "tests", "environment.yml", "pyproject.toml"]


class Workspace:
    """Links to the sources beside its own ``results`` and ``.snakemake``."""

    output = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in SHARED:
            (folder / name).symlink_to(ROOT / name)
        # The preset `published` writes beside the published numbers.
        (folder / "results" / "published").mkdir(parents=True)
        for path in (ROOT / "results" / "published").glob("published*.csv"):
            (folder / "results" / "published" / path.name).symlink_to(path)

    def config(self, base: str = "tests/workflow/tiny.yaml", name: str = "changed.yaml", **changes) -> str:
        """Writes a changed copy of a preset; ``a__b=value`` sets ``a.b``, the value ``...`` removes the key."""
        document = yaml.safe_load((ROOT / base).read_text())
        for path, value in changes.items():
            node, keys = document, path.split("__")
            for key in keys[:-1]:
                node = node[key]
            if value is ...:
                del node[keys[-1]]
            else:
                node[keys[-1]] = value
        (self.folder / name).write_text(yaml.safe_dump(document))
        return name

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "snakemake"), "--cores", "2", *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    def snakemake(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs ``python -m sida`` or ``python -m eval`` in the workspace."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )

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
        )


def kill_group(process: subprocess.Popen[bytes], sign: int = signal.SIGKILL) -> None:
    """Sends a signal to a run and all its jobs and waits for the leader."""
    os.killpg(process.pid, sign)
    process.wait(timeout=60)
