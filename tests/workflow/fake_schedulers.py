"""``qsub``, ``qstat``, ``qdel``, ``bsub``, ``bjobs`` and ``bkill`` that run jobs in the background of this machine.

They take the options that we use and no others, answer in the words of OpenPBS 23, LSF 10.1 and Grid Engine 8.1, and
forget a job that has ended (as a scheduler without history does). Called as ``fake_schedulers.py KIND COMMAND ...``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(os.environ.get("FAKE_QUEUE", "."))
#: Options by kind and command: those with a value, and flags.
OPTIONS = {
    ("pbs", "qsub"): ("-N -j -o -l -q -A -W", "-V"),
    ("sge", "qsub"): ("-N -j -o -l -q -P -S -pe", "-V -cwd -terse"),
    ("lsf", "bsub"): ("-J -o -n -W -R -M -gpu -q -P", ""),
}


def start(kind: str, command: str, words: list[str]) -> int:
    valued, flags = (text.split() for text in OPTIONS[kind, command])
    given, rest = {}, list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option not in (*valued, *flags):
            print(f"{command}: invalid option -- '{option}'", file=sys.stderr)
            return 2
        if option in valued:
            given[option] = rest.pop(0)
            if (kind, option) == ("sge", "-pe"):
                rest.pop(0)
    number = len(list(HERE.glob("*.json"))) + 1
    with open(given["-o"], "ab") as log:
        run = ["sh", *rest] if command == "qsub" else rest
        process = subprocess.Popen(run, stdout=log, stderr=log, start_new_session=True)
    (HERE / f"{number}.json").write_text(json.dumps({"pid": process.pid, "words": words}))
    answers = {"pbs": f"{number}.server", "sge": str(number), "lsf": f"Job <{number}> is submitted to queue <normal>."}
    print(answers[kind])
    return 0


def runs(job: str) -> int | None:
    """Process id of a job that has not ended; no process is its parent any more, so the kernel knows."""
    path = HERE / f"{job.partition('.')[0]}.json"
    if not path.exists():
        return None
    pid = json.loads(path.read_text())["pid"]
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return None if state == "Z" else pid


def status(kind: str, job: str) -> int:
    pid = runs(job)
    known = (HERE / f"{job.partition('.')[0]}.json").exists()
    if kind == "pbs":
        if pid is None:
            end = f"{job} Job has finished, use -x or -H to obtain historical job information"
            print(f"qstat: {end if known else f'Unknown Job Id {job}'}", file=sys.stderr)
            return 35 if known else 153
        print(f"Job Id: {job}\n    Job_Name = x\n    job_state = R\n    queue = workq")
    elif kind == "sge":
        if pid is None:
            print(f"Following jobs do not exist: \n{job}", file=sys.stderr)
            return 1
        print(f"{'=' * 62}\njob_number:                 {job}\nowner:                      me")
    else:
        if not known:
            print(f"Job <{job}> is not found", file=sys.stderr)
            return 255
        print("RUN" if pid is not None else "EXIT")
    return 0


def end(jobs: list[str]) -> int:
    for job in jobs:
        pid = runs(job)
        if pid is not None:
            os.killpg(pid, signal.SIGKILL)
    return 0


def main(kind: str, command: str, *words: str) -> int:
    if (HERE / "down").exists():
        print("cannot connect to server (errno=111)", file=sys.stderr)
        return 255
    if command in ("qsub", "bsub"):
        return start(kind, command, list(words))
    return end(list(words)) if command in ("qdel", "bkill") else status(kind, words[-1])


def install(kind: str, folder: Path) -> None:
    """Puts the commands of a kind into a folder of PATH."""
    folder.mkdir()
    for command in ("bsub", "bjobs", "bkill") if kind == "lsf" else ("qsub", "qstat", "qdel"):
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" {kind} {command} "$@"\n')
        path.chmod(0o755)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
