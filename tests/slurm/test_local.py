"""``slurm-local`` where SLURM cannot be installed or does not start: one line, and nothing left behind."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sida.config.resources import ROOT

TOOL = ROOT / "tests/slurm/slurm-local"
#: What the script calls beside SLURM.
TOOLS = "bash sh env id awk find seq ln chmod mkdir rm rmdir cat tail grep sed mktemp setsid sleep uname nproc wc make"
TOOLS += " basename"
#: Stand-ins for SLURM and MUNGE; daemons note their process before they stay.
STAY = 'echo $$ >>"$SLURM_LOCAL_DIR/started"; exec sleep 300'
WORKING = {
    **dict.fromkeys(("munge", "unmunge", "sbatch", "squeue", "srun", "scancel", "sinfo"), ":"),
    "mungekey": 'for word; do :; done; : >"${word#--keyfile=}"',
    "munged": STAY,
    "slurmctld": STAY,
    "slurmd": '[ "$1" != -V ] || { echo slurm 22.05.8; exit; }; ' + STAY,
    "scontrol": ":",
}


class Machine:
    """A machine that has only these commands."""

    def __init__(self, folder: Path, **commands: str) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name in TOOLS.split():
            (self.bin / name).symlink_to(shutil.which(name))
        for name, body in commands.items():
            (self.bin / name).unlink(missing_ok=True)
            (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
            (self.bin / name).chmod(0o755)
        self.environment = {"PATH": str(self.bin), "SLURM_LOCAL_SBIN": "", "TMPDIR": str(folder), "HOME": str(folder)}
        self.environment |= {"SLURM_LOCAL_DIR": str(folder / "slurm"), "SLURM_LOCAL_TIMEOUT": "1"}
        self.environment |= {"SLURM_LOCAL_POLICY": str(folder / "policy")}

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        return subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60)

    def started(self) -> list[int]:
        """Processes of daemons that were started."""
        path = self.folder / "slurm/started"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def lives(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ({"id": "echo 0"}, "and no apt-get to install it"),
        ({"id": "echo 1000", "apt-get": "exit 9"}, "and installing it needs root"),
    ],
)
def test_without_slurm_and_a_way_to_install_it_make_says_so_in_one_line(commands, said, tmp_path):
    done = Machine(tmp_path, **commands).run("make", "-o", ".venv/.installed", "test-slurm")
    first, last = done.stderr.splitlines()
    assert done.returncode != 0
    assert not done.stdout
    assert first.startswith("slurm-local: error: no SLURM here (missing: munged")
    assert said in first
    assert "packages slurm-wlm and munge" in first
    # What make itself adds.
    assert last.startswith("make: ***")


def test_apt_get_without_a_network_is_one_line_with_its_own_error(tmp_path):
    apt = 'echo "Err:1 http://deb"; [ "$1" = update ] || { echo "E: Unable to locate package slurm-wlm"; exit 100; }'
    done = Machine(tmp_path, **{"id": "echo 0", "apt-get": apt}).run(TOOL, "install")
    assert done.returncode != 0
    started, error = done.stderr.splitlines()
    assert "installing slurm-wlm and munge by apt-get" in started
    assert "could not install SLURM (E: Unable to locate package slurm-wlm); its output is in " in error
    assert "Err:1" in Path(error.partition("its output is in ")[2].partition(";")[0]).read_text()
    # What kept packages from starting services is gone again.
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"slurmctld": "echo no licence >&2; exit 1"}, "slurmctld"),
        ({"scontrol": "exit 1"}, "slurmctld"),
        ({"sinfo": "echo down"}, "slurmd"),
    ],
    ids=["slurmctld ends at once", "slurmctld does not answer", "no node is idle"],
)
def test_what_was_started_ends_when_the_rest_does_not_start(broken, named, tmp_path):
    machine = Machine(tmp_path, **(WORKING | broken))
    done = machine.run(TOOL, "up")
    assert done.returncode != 0
    assert not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"slurm-local: error: {named} is not usable; nothing was left running")
    assert machine.started()
    assert not any(lives(process) for process in machine.started())
    assert Path(last.partition("logs stay in ")[2]).is_dir()


def test_a_start_that_is_stopped_leaves_nothing_running(tmp_path):
    machine = Machine(tmp_path, **(WORKING | {"scontrol": "exit 1"}))
    machine.environment["SLURM_LOCAL_TIMEOUT"] = "60"
    process = subprocess.Popen([TOOL, "up"], env=machine.environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(machine.started()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    daemons = machine.started()
    assert len(daemons) == 2
    assert all(lives(daemon) for daemon in daemons)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert not any(lives(daemon) for daemon in daemons)
