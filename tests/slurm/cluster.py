"""What tests do to a cluster and to workflows that run on it."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from tests.workflow.workspace import Workspace, kill_group

T = TypeVar("T")
#: Seconds for anything to happen; the machine may be slow.
PATIENCE = 1800.0
#: Checks often, because jobs are short; all else is the shipped profile's.
QUICK = ["--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "3"]
QUICK += ["--latency-wait", "30", "--jobs", "4"]
SHEET = """run\tfamily\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler
teacher\tTeacher\tEDM teacher\tteacher\tdigits-short\t\t\t\theun-10
sid\tOne Step\tSiD\tsid\tdigits-short\t\t1.0\tsid\tone-step
sida\tOne Step\tSiDA\tsida\tdigits-short\t\t1.0\tsida\tone-step
"""


def wait_for(what: str, look: Callable[[], T | None], run: ClusterWorkspace | None = None) -> T:
    """What a look gives once it gives something; not for ever, and not longer than a run lasts."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        assert run is None or run.process.poll() is None, f"ended before {what}: {run.log()}"
        time.sleep(0.2)
    raise AssertionError(f"waited {PATIENCE:.0f} s for {what}")


class Cluster:
    """The commands of a running SLURM.

    Args:
        environment: Variables that find it.
        accounting: Whether it has a data base of accounts and jobs.
    """

    def __init__(self, environment: Mapping[str, str], accounting: bool) -> None:
        self.environment, self.accounting = {**os.environ, **environment}, accounting

    def run(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    def job(self, comment: str, folder: Path) -> str | None:
        """Id of the running job with that comment (rule and wildcards) in a folder."""
        lines = self.run("squeue", "-h", "-t", "R", "-o", "%A %k %Z").splitlines()
        found = [line.split()[0] for line in lines if line.split()[1:] == [comment, str(folder)]]
        return found[0] if found else None

    def states(self, folder: Path) -> list[str]:
        """How jobs of a folder ended, in any order."""
        lines = self.run("squeue", "-h", "-t", "all", "-o", "%T %Z").splitlines()
        return [line.split()[0] for line in lines if line.split()[1] == str(folder)]

    def accounted(self, job: str) -> list[str]:
        """States of a job's runs in the data base, the first one first."""
        return self.run("sacct", "-n", "-X", "-D", "-j", job, "-o", "State%30").split()

    def show(self, job: str) -> str:
        return self.run("scontrol", "show", "job", job)


class ClusterWorkspace(Workspace):
    """A workspace whose workflow runs through the SLURM profile, with the tiny preset made smaller still.

    Args:
        cluster: The cluster.
        folder: Empty folder.
        site: What stands in the site file.
        **changes: Of the preset.
    """

    def __init__(self, cluster: Cluster, folder: Path, site: Mapping[str, object] | None = None, **changes) -> None:
        super().__init__(folder)
        self.cluster = cluster
        (folder / "sheet.tsv").write_text(SHEET)
        account = {"account": "tests"} if cluster.accounting else {}
        (folder / "site.yaml").write_text(yaml.safe_dump({"partition": "main", **account, **(site or {})}))
        small = {"runs": "sheet.tsv", "claims": None, "figures": [], "trials_per_job": ..., **changes}
        # Long enough to be hit on the way, with a state every now and then.
        small |= {"teachers__digits-short__training__total_kimg": 1.5}
        for recipe in ("sid", "sida"):
            small |= {f"recipes__{recipe}__total_kimg": 1, f"recipes__{recipe}__evaluation": None}
        self.preset = self.config(name="small.yaml", **small)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **{k: self.cluster.environment[k] for k in ("SLURM_CONF", "PATH")}} | {
            "SIDA_SITE": "site.yaml"
        }

    def slurm(self, *targets: str, options: tuple[str, ...] = ()) -> list[str]:
        return ["--workflow-profile", "profiles/slurm", *QUICK, *options, "--configfile", self.preset, "--", *targets]

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        # A profile of a scheduler says how many jobs there are, instead of cores.
        return [*command[:1], *command[3:]] if "profiles/slurm" in arguments else command

    def table(self) -> list[dict[str, str]]:
        """The table's cells with every digit and all digests, without when they were measured."""
        with open(self.folder / "results/tiny/tables/main.csv", newline="") as stream:
            return [{key: cell for key, cell in row.items() if key != "date"} for row in csv.DictReader(stream)]

    def log(self) -> str:
        path = self.folder / "run.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def ticks(self, run: str) -> int:
        """Lines in a training's log."""
        kind = "teachers" if run == "digits-short" else "students"
        path = self.folder / f"results/tiny/{kind}/{run}/train.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def begin(self, *arguments: str) -> None:
        """Starts Snakemake."""
        self.process = self.start(*arguments)

    def end(self) -> None:
        """Waits for its end, which must be a good one."""
        assert self.process.wait(timeout=2 * PATIENCE) == 0, self.log()

    def stop(self) -> None:
        """Kills Snakemake, and what a node that was set down has left."""
        if self.process.poll() is None:
            kill_group(self.process)
        for process, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def signal(self, run: str, number: int) -> None:
        """Sends a signal to a training that goes on."""
        os.kill(wait_for(f"the process of {run}", lambda: self.training(run)), number)

    def training(self, run: str) -> int | None:
        """Process id of a training that goes on in this workspace."""
        for process, words in self.processes():
            trains = words[1:4] in ([b"-m", b"sida.workflow", verb] for verb in (b"train-teacher", b"distill"))
            if trains and any(word.endswith(f"/{run}.json".encode()) for word in words):
                return process
        return None

    def processes(self) -> Iterator[tuple[int, list[bytes]]]:
        """Ids and commands of the processes in this workspace."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                if os.readlink(entry / "cwd") == str(self.folder):
                    yield int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")


def fields_of(text: str) -> dict[str, str]:
    """Fields of `scontrol show job`."""
    return dict(re.findall(r"(\S+?)=(\S*)", text))
