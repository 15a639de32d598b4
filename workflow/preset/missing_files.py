"""Files that are missing between products that are there, because a job that was to make them anew failed.

Snakemake removes what a failed job was to make, and asks for no missing file while what was made from it is there. So
the run after a failed one would find nothing to do, and show the numbers of settings that nobody asks for any more.
Such files are asked for here, and with them all that is made from them. Files that somebody removed to make room are
not: for them Snakemake still has the record of the job that made them, with the settings and inputs of now.

Snakemake also keeps a record of a failed job as if it had made something, with the hashes of its inputs: of shards,
which do not stay, a changed input would pass for the one that was used. That record is forgotten here.

What is changed of Snakemake is not documented; ``tests/workflow/test_failed_rerun.py`` notices other versions.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sida.errors import suggestion
from sida.progress import say


def ask_for_missing(dag_class: Any, left_out: Collection[str] = ()) -> None:
    """Makes Snakemake treat missing files as it treats incomplete ones: their jobs run, whoever needs them.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        left_out: Rules whose files are known by their contents, whatever is recorded.
    """
    check_incomplete = dag_class.check_incomplete

    @functools.wraps(check_incomplete)
    async def check(dag: Any) -> None:
        await check_incomplete(dag)
        if dag.workflow.is_main_process and not dag.workflow.touch:
            due = await _due_files(dag, left_out)
            dag.forcefiles.update(due)
            if due:
                say(remark(sorted(map(str, due))))

    dag_class.check_incomplete = check


def forget_failed(job_class: Any) -> None:
    """Makes Snakemake forget what it knew of the files of a job that failed.

    Args:
        job_class: Snakemake's class of jobs; changed for this process.
    """
    postprocess = job_class.postprocess

    @functools.wraps(postprocess)
    async def ended(job: Any, *args: Any, error: bool = False, **options: Any) -> None:
        await postprocess(job, *args, error=error, **options)
        if error and job.dag.workflow.is_main_process:
            job.dag.workflow.persistence.cleanup(job)

    job_class.postprocess = ended


def suggest_targets(dag_class: Any, preset: str, products: Callable[[], Sequence[str]]) -> None:
    """Makes Snakemake end with one line, and the nearest target, if no rule makes a target that the user gives.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        preset: File of the preset.
        products: Gives the preset's products below ``results/<preset>``.
    """
    init = dag_class.init

    @functools.wraps(init)
    async def checked(dag: Any, *args: Any, **options: Any) -> None:
        rules = list(dag.workflow.rules)
        for target in map(str, dag.targetfiles):
            if not os.path.exists(target) and not any(rule.is_producer(target) for rule in rules):
                near = suggestion(target.split("/", 2)[-1] if target.startswith("results/") else target, products())
                near = near if len(near) < 200 else "; docs/reproduce.md names them"
                print(f"error: {target}: no target of {preset}{near}", file=sys.stderr)
                sys.exit(1)
        await init(dag, *args, **options)

    dag_class.init = checked


async def _due_files(dag: Any, left_out: Collection[str]) -> set[Any]:
    """Inputs of products that are there which are missing, and which their jobs did not make with today's settings."""
    due: set[Any] = set()
    for job in dag.jobs:
        there = [file for file in job.output if await file.exists()]
        if not there or not any(map(dag.workflow.persistence.metadata, there)):
            continue
        for maker, files in dag.dependencies[job].items():
            wanted = [file for file in maker.output if file in files and not file.is_temp]
            absent = [file for file in wanted if not await file.exists()]
            if absent and maker.rule.name not in left_out and _is_outdated(dag, maker, there):
                due.update(absent)
    return due


def _is_outdated(dag: Any, maker: Any, products: Collection[Any]) -> bool:
    """Whether a job's last success is not known, was one with other settings, or was before its inputs changed."""
    persistence = dag.workflow.persistence
    if not persistence.has_metadata(maker) or persistence.params_changed(maker):
        return True
    made = min(os.stat(file).st_mtime for file in products)
    return any(os.stat(file).st_mtime > made for file in maker.input if os.path.exists(file))


def remark(missing: list[str]) -> str:
    """A line for people."""
    files = f"{missing[0]} and {len(missing) - 1:,} other files are" if len(missing) > 1 else f"{missing[0]} is"
    return f"{files} missing after a job that failed: made again, with all that is made from it"
