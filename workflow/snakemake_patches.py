"""Replaces three functions of Snakemake, which are not documented, in the process that runs a workflow.

==========================  ================================================================================
function                    added
==========================  ================================================================================
``DAG.init``                targets by row or by the end of their path; one line for an unknown target
``DAG.check_incomplete``    a job runs again if its output is missing after a failure
``Job.postprocess``         a failed job leaves no record, and its remaining outputs count as old
==========================  ================================================================================

Snakemake removes the outputs of a failed job, and does not request a missing file while products made from it exist.
So the run after a failure would find nothing to do, and show numbers of old settings. The second function requests such
files, and with them everything that is made from them. Files that were removed to free space are not requested: for
these Snakemake still has the record of the job, with the current settings and inputs.

Snakemake also keeps a record of a failed job with the hashes of its inputs. A changed input, such as temporary shards,
would then count as the one that was used. The third function removes such records. Files that a job updates get their
former contents back when it fails, and the time of the failure: the function gives them no time, so they are requested
again.

Nothing of this can be done by ``sida run`` before Snakemake starts, or by its options: the targets of a plain
``snakemake tables/main.tex`` are known after the rules are read, missing files after the graph is built, and failures
while jobs run.

The three functions are the same in Snakemake 9.16.3 to 9.27.1 (:data:`KNOWN`). A run with others prints one
line, and ``tests/workflow/test_failed_rerun.py`` fails.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

# Snakemake's modules form a circle, which this one opens.
import snakemake.api  # noqa: F401
from snakemake import __version__
from snakemake.dag import DAG
from snakemake.jobs import Job

from sida.errors import UserError, say

#: SHA-256 of the source of each function that this module was written for.
KNOWN = {
    "DAG.init": "423f00edc796aae337abc7492ff95229d7802a3dc08a59638e1a8ed003c4fa64",
    "DAG.check_incomplete": "29292729683e30d8eaf41a7124157857a00d322b40947a7c501c428cd29b400c",
    "Job.postprocess": "6c242cdd6b939c33faf82f891294c545da00b84da5b24d68939be42819205200",
}


def patch(
    found: Callable[[str], Sequence[str]], named: Callable[[str], Sequence[str]], left_out: Collection[str]
) -> None:
    """Replaces the three functions for the rest of this process.

    Args:
        found: Products that a target names (:meth:`workflow.preset.targets.Targets.found`).
        named: The same, which raises a UserError for an unknown target.
        left_out: Rules whose files are identified by their contents.
    """
    if changed := unknown_functions():
        say(f"Snakemake {__version__}: {', '.join(changed)} differ from 9.27.1; reruns after faults are not tested")
    _find_targets(found, named)
    _request_missing(left_out)
    _drop_failed()


def unknown_functions() -> list[str]:
    """Names of the functions whose source is not that of :data:`KNOWN`."""
    functions = {"DAG.init": DAG.init, "DAG.check_incomplete": DAG.check_incomplete, "Job.postprocess": Job.postprocess}
    # The source below an earlier patch.
    sources = {name: inspect.getsource(inspect.unwrap(function)) for name, function in functions.items()}
    return [name for name, text in sources.items() if hashlib.sha256(text.encode()).hexdigest() != KNOWN[name]]


def _request_missing(left_out: Collection[str]) -> None:
    """Makes Snakemake treat missing files like incomplete ones, so that their jobs run."""
    check_incomplete = DAG.check_incomplete

    @functools.wraps(check_incomplete)
    async def check(dag: Any) -> None:
        await check_incomplete(dag)
        if dag.workflow.is_main_process and not dag.workflow.touch:
            due = await _due_files(dag, left_out)
            dag.forcefiles.update(due)
            if due:
                say(remark(sorted(map(str, due))))

    DAG.check_incomplete = check


def _drop_failed() -> None:
    """Makes Snakemake remove its records of the files of a failed job, and take files that are left for old ones."""
    postprocess = Job.postprocess

    @functools.wraps(postprocess)
    async def ended(job: Any, *args: Any, error: bool = False, **options: Any) -> None:
        await postprocess(job, *args, error=error, **options)
        if error and job.dag.workflow.is_main_process:
            job.dag.workflow.persistence.cleanup(job)
            for file in job.output:
                if os.path.exists(file):
                    os.utime(file, (0, 0))

    Job.postprocess = ended


def _find_targets(found: Callable[[str], Sequence[str]], named: Callable[[str], Sequence[str]]) -> None:
    """Makes Snakemake find products by row or by their paths below the preset's folder: ``tables/main.tex``.

    An unknown target ends in one line with the nearest one.
    """
    init = DAG.init

    @functools.wraps(init)
    async def checked(dag: Any, *args: Any, **options: Any) -> None:
        for target in sorted(map(str, dag.targetfiles)):
            products, rules = found(target), dag.workflow.rules
            # Other files of a rule, such as samples, are targets by their whole path.
            if not products and (os.path.exists(target) or any(rule.is_producer(target) for rule in rules)):
                continue
            try:
                products = products or named(target)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)
            for files in (dag.targetfiles, dag.forcefiles, dag.priorityfiles, dag.untilfiles, dag.omitfiles):
                if target in files:
                    files.remove(target)
                    files.update(products)
        await init(dag, *args, **options)

    DAG.init = checked


async def _due_files(dag: Any, left_out: Collection[str]) -> set[Any]:
    """Missing inputs of existing products that were not made with the current settings, and files of failed updates."""
    due: set[Any] = set()
    for job in dag.jobs:
        # Time 0: see _drop_failed.
        due.update(file for file in job.output if os.path.exists(file) and not os.stat(file).st_mtime)
        products = [file for file in job.output if await file.exists()]
        if not any(map(dag.workflow.persistence.metadata, products)):
            continue
        for maker, files in dag.dependencies[job].items():
            wanted = [file for file in maker.output if file in files and not file.is_temp]
            absent = [file for file in wanted if not await file.exists()]
            if absent and maker.rule.name not in left_out and _is_outdated(dag, maker, products):
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
