"""Files that are missing between products that are there: what a failed job was to make, or what somebody deleted.

Snakemake removes what a failed job was to make, and asks for no missing file while what was made from it is there. So
the run after a failed one would find nothing to do, and show the numbers of settings that nobody asks for any more.
Such files are asked for here, and with them all that is made from them. Snakemake also keeps a record of a failed job
as if it had made something, with the hashes of its inputs: of shards, which do not stay, a changed input would pass
for the one that was used. That record is forgotten here.

What is changed of Snakemake is not documented; ``tests/workflow/test_workflow_failed_rerun.py`` notices other versions.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from sida.progress import say


def ask_for_missing(dag_class: Any, left_out: Collection[str] = ()) -> None:
    """Makes Snakemake treat missing files as it treats incomplete ones: their jobs run, whoever needs them.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        left_out: Rules whose files may be removed once they were used.
    """
    check_incomplete = dag_class.check_incomplete

    @functools.wraps(check_incomplete)
    async def check(dag: Any) -> None:
        await check_incomplete(dag)
        if dag.workflow.is_main_process and not dag.workflow.touch:
            missing, due = await _missing_files(dag, left_out)
            dag.forcefiles.update(missing)
            if due:
                say(remark(due))

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


async def _missing_files(dag: Any, left_out: Collection[str]) -> tuple[set[Any], list[str]]:
    """Missing inputs that other jobs of a graph make to stay, and those of them whose products are there."""
    missing: set[Any] = set()
    due: set[str] = set()
    for job in dag.jobs:
        absent = [
            file
            for maker, files in dag.dependencies[job].items()
            if maker.rule.name not in left_out
            for file in maker.output
            if file in files and not file.is_temp and not await file.exists()
        ]
        missing.update(absent)
        there = [file for file in job.output if await file.exists()]
        if absent and there:
            due.update(map(str, absent))
    return missing, sorted(due)


def remark(missing: list[str]) -> str:
    """A line for people."""
    files = f"{missing[0]} and {len(missing) - 1:,} other files are" if len(missing) > 1 else f"{missing[0]} is"
    return f"{files} missing (a job failed, or somebody deleted it): made again, with all that is made from it"
