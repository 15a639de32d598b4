"""Makes Snakemake repeat jobs whose outputs are missing after a failure, although later products exist.

Snakemake removes the outputs of a failed job, and does not request a missing file while products made from it exist.
So the run after a failure would find nothing to do, and show numbers of old settings. This module requests such files,
and with them everything that is made from them. Files that were removed to free space are not requested: for these
Snakemake still has the record of the job, with the current settings and inputs.

Snakemake also keeps a record of a failed job with the hashes of its inputs. A changed input, such as temporary shards,
would then count as the one that was used. This module removes such records. Files that a job updates get their former
contents back when it fails, and the time of the failure: this module gives them no time, so they are requested again.

The changed functions of Snakemake are not documented; ``tests/workflow/test_failed_rerun.py`` notices other versions.
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
    """Makes Snakemake treat missing files like incomplete ones, so that their jobs run.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        left_out: Rules whose files are identified by their contents.
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
    """Makes Snakemake remove its records of the files of a failed job, and take files that are left for old ones.

    Args:
        job_class: Snakemake's class of jobs; changed for this process.
    """
    postprocess = job_class.postprocess

    @functools.wraps(postprocess)
    async def ended(job: Any, *args: Any, error: bool = False, **options: Any) -> None:
        await postprocess(job, *args, error=error, **options)
        if error and job.dag.workflow.is_main_process:
            job.dag.workflow.persistence.cleanup(job)
            for file in job.output:
                if os.path.exists(file):
                    os.utime(file, (0, 0))

    job_class.postprocess = ended


def find_targets(dag_class: Any, preset: str, results: str, products: Callable[[], Sequence[str]]) -> None:
    """Makes Snakemake find products by their paths below the preset's folder: ``tables/main.tex``.

    An unknown target ends in one line with the nearest one.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        preset: File of the preset.
        results: Folder of the preset, ``results/<preset>``.
        products: Returns the preset's products below that folder.
    """
    init = dag_class.init

    @functools.wraps(init)
    async def checked(dag: Any, *args: Any, **options: Any) -> None:
        rules = list(dag.workflow.rules)
        for target in sorted(map(str, dag.targetfiles)):
            if target in products():
                for files in (dag.targetfiles, dag.forcefiles, dag.priorityfiles, dag.untilfiles, dag.omitfiles):
                    if target in files:
                        files.remove(target)
                        files.add(f"{results}/{target}")
            elif not os.path.exists(target) and not any(rule.is_producer(target) for rule in rules):
                near = suggestion(target.split("/", 2)[-1] if target.startswith("results/") else target, products())
                near = near if len(near) < 200 else "; docs/reproduce.md names them"
                print(f"error: {target}: no target of {preset}{near}", file=sys.stderr)
                sys.exit(1)
        await init(dag, *args, **options)

    dag_class.init = checked


async def _due_files(dag: Any, left_out: Collection[str]) -> set[Any]:
    """Missing inputs of existing products that were not made with the current settings, and files of failed updates."""
    due: set[Any] = set()
    for job in dag.jobs:
        due.update(file for file in job.output if os.path.exists(file) and not os.stat(file).st_mtime)
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
    """Whether a job has no record of success, or one with other settings or from before a change of its inputs."""
    persistence = dag.workflow.persistence
    if not persistence.has_metadata(maker) or persistence.params_changed(maker):
        return True
    made = min(os.stat(file).st_mtime for file in products)
    return any(os.stat(file).st_mtime > made for file in maker.input if os.path.exists(file))


def remark(files: list[str]) -> str:
    """Message about missing and former files."""
    more = f" and {len(files) - 1:,} other files" if len(files) > 1 else ""
    return f"{files[0]}{more}: missing or of before a job that failed; made again, with all that is made from it"
