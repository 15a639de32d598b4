"""What Snakemake's cluster-generic executor calls: submit, status and cancel (``profiles/generic``).

A job writes its exit status into a file beside its log, so that success needs no history of the scheduler; a job that
is in no queue and has left no status after a while has failed. What Snakemake takes for a job's id is the scheduler's
id and that file: ``17.server:logs/cluster/distill/….exit``.
"""

from __future__ import annotations

import json
import re
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow.launch.schedulers import SCHEDULERS, Scheduler, Wish, cancelled, in_queue, submitted

#: Seconds in which the status of a job may reach this machine after it left the queue.
GRACE = 120.0
#: Where scripts, logs and exit statuses lie, below the current folder.
FOLDER = Path("logs/cluster")


def scheduler_here() -> Scheduler:
    """The scheduler that the site file names.

    Raises:
        SystemExit: It names none; with one line.
    """
    from sida.errors import UserError
    from workflow.planning.site import load_site

    try:
        name = load_site().scheduler
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if name is None:
        raise SystemExit(f"error: profiles/site.yaml: scheduler is missing; add one of {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name]


def submit(words: Sequence[str]) -> str:
    """Hands Snakemake's job script in; the last word is its path."""
    script = Path(words[-1]).read_text(encoding="utf-8")
    found = re.search(r"^# properties = (.*)$", script, re.M)
    properties = json.loads(found[1]) if found else {}
    resources = properties.get("resources", {})
    if resources.get("nodes", 1) > 1:
        raise SystemExit("error: several nodes need profiles/slurm; set gpus in the preset to those of one node")
    rule = str(properties.get("rule") or properties.get("groupid") or "job")
    values = [str(value) for value in (properties.get("wildcards") or {}).values()]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join([rule, *values]))[:100]
    stem = FOLDER / rule / f"{name}-{uuid.uuid4().hex[:8]}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {end: stem.with_name(f"{stem.name}.{end}").resolve() for end in ("sh", "job", "log", "exit")}
    files["job"].write_text(script, encoding="utf-8")
    files["sh"].write_text(_script(files), encoding="utf-8")
    job = submitted(scheduler_here(), _wish(name, files, properties, resources))
    return f"{job}:{stem.with_name(f'{stem.name}.exit')}"


def _script(files: Mapping[str, Path]) -> str:
    """Runs the job, then leaves its exit status, whole or not at all."""
    job, status = (shlex.quote(str(files[end])) for end in ("job", "exit"))
    here = shlex.quote(str(Path.cwd()))
    lines = ["#!/bin/sh", f"cd {here} || exit 1", f"sh {job}", "s=$?"]
    return "\n".join([*lines, f"echo $s > {status}.part && mv {status}.part {status}", "exit $s", ""])


def _wish(name: str, files: Mapping[str, Path], properties: Mapping[str, Any], resources: Mapping[str, Any]) -> Wish:
    return Wish(
        name=name,
        script=str(files["sh"]),
        log=str(files["log"]),
        cores=int(resources.get("cpus_per_task") or properties.get("threads", 1)),
        gpus=int(resources.get("gpu", 0)),
        minutes=int(resources.get("runtime", 60)),
        mem_mb=int(resources.get("mem_mb", 4000)),
        queue=resources.get("slurm_partition"),
        account=resources.get("slurm_account"),
        extra=resources.get("slurm_extra"),
    )


def status(words: Sequence[str]) -> str:
    """``running``, ``success`` or ``failed``, of one job."""
    job, _, path = words[0].partition(":")
    left, gone = Path(path), Path(f"{path}.gone")
    waits = not left.exists() and in_queue(scheduler_here(), job)
    # It may have ended between the two looks.
    if left.exists():
        return "success" if left.read_text().strip() == "0" else "failed"
    if waits:
        gone.unlink(missing_ok=True)
        return "running"
    if not gone.exists():
        gone.touch()
    return "failed" if time.time() - gone.stat().st_mtime > GRACE else "running"


def cancel(words: Sequence[str]) -> str:
    """Ends jobs."""
    cancelled(scheduler_here(), [word.partition(":")[0] for word in words])
    return ""
