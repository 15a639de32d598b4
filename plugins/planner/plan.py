"""The plan of targets: jobs of Snakemake's own dry run with their costs, totals and assumptions."""

import contextlib
import dataclasses
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.eval.contrasts import CONFIDENCE, DECIDING, POWER, seeds_to_detect
from sida.eval.results.retraining import load_retraining
from sida.machine import num_cores
from sida.workflow.checks import PLANNING, give_cache
from sida.workflow.planning.costs import SMALLER, STAGES, Cost, Costs, span, too_large
from sida.workflow.preset import Preset, load_preset
from sida.workflow.preset.checks import search_remarks, unshown_remark
from sida.workflow.preset.outside_code import origin
from sida.workflow.preset.targets import Targets

#: Kinds of jobs in the order of the table, with their titles.
KINDS = {
    "fetch": "downloads",
    "import": "imported networks",
    "data": "data",
    "teacher": "teachers",
    "student": "students",
    "measure": "measurements",
    "build": "tables, figures",
}
ASSUMED = (
    "hours: counted operations at the rate above, the same for every network and number of GPUs; evaluations during "
    "training included",
    "memory: counted tensors of a round (batch_gpu) and 10 % gaps, no networks of features; of measuring the weights "
    "alone",
    "disk: two generations of a state, plain archives",
    "energy: the card's power while it works; without processors, cooling and downloads",
    "wall time: the longest chain of jobs, or all GPU hours on these GPUs; without downloads and queues",
)


@dataclasses.dataclass(frozen=True)
class Planned:
    """A job that Snakemake would run.

    Attributes:
        rule: Its rule.
        wildcards: Values of the rule's wildcards.
        inputs: Files that it reads.
        outputs: Files that it makes.
    """

    rule: str
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[str]


def planned_jobs(files: Sequence[Path], targets: Sequence[str], fresh: bool = False) -> list[Planned]:
    """Jobs that Snakemake would run.

    Args:
        files: Files of a preset; later ones win.
        targets: Paths of products; none: the whole preset.
        fresh: Whether jobs whose products are up to date count.

    Raises:
        UserError: Snakemake reports a fault.
    """
    give_cache()
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.enums import Quietness, RerunTrigger
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, WorkflowSettings

    triggers = frozenset({RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT})
    with _recorded() as jobs, SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        try:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=tuple(files)),
                workflow_settings=WorkflowSettings(),
                snakefile=ROOT / "Snakefile",
            )
            dag = workflow.dag(DAGSettings(targets=set(targets), forceall=fresh, rerun_triggers=triggers))
            dag.execute_workflow(executor="dryrun")
        except WorkflowError as error:
            raise UserError("the plan", f"Snakemake: {error}") from None
    return jobs


@contextlib.contextmanager
def _recorded() -> Iterator[list[Planned]]:
    """Records the jobs that Snakemake reports (event ``JOB_INFO`` of its logger plugins); the environment stays."""
    from snakemake.logging import LogEvent, get_event, logger

    jobs: list[Planned] = []
    environment, planning = dict(os.environ), PLANNING.set(True)

    def record(line: logging.LogRecord) -> bool:
        if get_event(line) == LogEvent.JOB_INFO:
            facts = vars(line)
            files = [[*map(str, facts[key] or [])] for key in ("input", "output")]
            jobs.append(Planned(facts["rule_name"], dict(facts["wildcards"]), *files))
        return False

    logger.addFilter(record)
    try:
        yield jobs
    finally:
        logger.removeFilter(record)
        os.environ.clear()
        os.environ.update(environment)
        PLANNING.reset(planning)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of the jobs that Snakemake would run.

    Attributes:
        preset: The preset.
        targets: Targets as they were named; empty for the whole preset.
        costs: Costs of the preset's jobs on a card.
        gpus: Number of cards.
        jobs: Costs by product; each precedes the costs of jobs that wait for it.
        asked: Rows of the targets that are left out.
        remarks: Remarks on the preset.
    """

    preset: Preset
    targets: Sequence[str]
    costs: Costs
    gpus: int
    jobs: dict[str, Cost]
    asked: Sequence[str] = ()
    remarks: Sequence[str] = ()


def make_plan(
    files: Sequence[Path],
    targets: Sequence[str] = (),
    card: str | None = None,
    gpus: int | None = None,
    fresh: bool = False,
) -> Plan:
    """Plans targets of a preset.

    Args:
        files: Files of the preset; later ones win.
        targets: Rows or products (:meth:`sida.workflow.preset.targets.Targets.paths_of`).
        card: See :class:`~sida.workflow.planning.costs.Costs`.
        gpus: Number of GPUs, or of cores that run jobs side by side; None: the preset's (``plan.gpus``), else one GPU,
            or this machine's cores.
        fresh: Whether products that are up to date, and downloads in the cache, count.

    Raises:
        UserError: No such target, or an unknown network or rate.
    """
    preset = load_preset(*files)
    gpus = gpus or preset.settings.plan.gpus
    target_paths, costs = Targets(preset), Costs(preset, card, gpus or 1, fresh=fresh)
    gpus = gpus or (num_cores() if costs.gpu_name == "CPU" else 1)
    paths = [path for target in targets for path in target_paths.paths_of(target)]
    jobs = planned_jobs(files, paths, fresh)
    key_of_path, totals = dict[str, str](), dict[str, Cost]()
    for job in jobs:
        stage, name, share = _part(job, preset)
        key, cost = f"{stage}/{name}", costs.of(stage, name)
        key_of_path |= dict.fromkeys(job.outputs, key)
        total = totals.setdefault(key, dataclasses.replace(cost, gpu_hours=0.0, cpu_hours=0.0, jobs=0))
        total.gpu_hours += share * cost.gpu_hours
        total.cpu_hours += share * cost.cpu_hours
        total.jobs += 1
        total.after = sorted({*total.after, *(key_of_path[path] for path in job.inputs if path in key_of_path)} - {key})
    out = [run for run in preset.left_out if not targets or run in target_paths.rows(paths)]
    unshown = unshown_remark(preset)
    remarks = [*search_remarks(preset), *([unshown] if unshown else [])]
    return Plan(preset, targets, costs, gpus, totals, out, remarks)


def _part(job: Planned, preset: Preset) -> tuple[str, str, float]:
    """Folder and name of a job's product, and the job's share in its cost."""
    if job.rule.startswith("measure_"):
        return "measurements", job.wildcards["run"], len(job.outputs) / preset.trials
    if job.rule == "sample":
        return "samples", f"{job.wildcards['run']}/trial-{job.wildcards['trial']}", 1.0
    return STAGES.get(job.rule, job.rule), "/".join(job.wildcards.values()), 1.0


def show_plan(plan: Plan, verbose: bool = False) -> str:
    """A plan as text: the preset, a table of jobs, totals, assumptions, and rows that are left out.

    Args:
        plan: The plan.
        verbose: Whether to name also the rows of other tables that are left out.
    """
    jobs, costs = [*plan.jobs.values()], plan.costs
    rows = [("what", "jobs", f"{costs.gpu_name} time", "memory", "download", "disk")]
    for kind, title in KINDS.items():
        some = [job for job in jobs if job.kind == kind]
        rows += [_row(title, some)] if some else []
        rows += [_row(f"  {job.name}", [job]) for job in some if kind in ("teacher", "student", "measure")]
    rows.append(_row("all", jobs))
    title = f"preset {plan.preset.name} ({plan.preset.source}): {', '.join(plan.targets) or 'the whole preset'}"
    lines = [title, "", *_aligned(rows)]
    precisions = {"float16": costs.gpu.float16, "float32": costs.gpu.float32}
    rates = ", ".join(f"{rate:.3g} TFLOP/s in {name}" for name, rate in precisions.items() if rate)
    energy = sum(job.gpu_hours for job in jobs) * costs.gpu.watts / 1000
    lines += [
        "",
        f"on {plan.gpus} × {costs.gpu_name}: {span(wall_hours(plan.jobs, plan.gpus))}, {energy:,.0f} kWh",
        f"rates: {rates} ({costs.gpu.source})",
        *ASSUMED,
    ]
    if large := too_large(jobs, costs.gpu.memory_gb, costs.gpu_name):
        lines.append(f"warning: {large}; {SMALLER}")
    lines += [f"warning: {remark}" for remark in plan.remarks]
    for name, where in plan.preset.code.items():
        lines.append(f"code from outside the package: {origin(name)} ({where}; allowed)")
    if unknown := [job.name for job in jobs if job.network_unknown]:
        examples = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        lines.append(
            f"without the evaluations of {len(unknown)} networks that the preset does not describe: {examples}"
        )
    every = [*plan.preset.left_out]
    if out := every if verbose else plan.asked:
        lines += ["", f"{LEFT_OUT}:", *(f"  {run}: {plan.preset.left_out[run]}" for run in out)]
    if len(out) < len(every):
        lines.append(f"rows of other targets that are left out, too: {len(every) - len(out)} (--verbose names them)")
    return "\n".join(lines)


#: Words before the rows of a preset that cannot be measured.
LEFT_OUT = "rows that are left out (sida assets list)"


def show_detection(files: Sequence[Path], percent: str) -> str:
    """Seeds of each of two methods that show a gap, by metric, from the preset's scatter of training, as text.

    Args:
        files: Files of the preset.
        percent: The gap in percent of the mean, such as ``10%``.

    Raises:
        UserError: No such gap, or a preset without ``retraining``.
    """
    number = percent.removesuffix("%").strip()
    if not re.fullmatch(r"\d+(\.\d+)?", number) or not 0.1 <= float(number) <= 100:
        raise UserError(
            "--detect", f"'{percent}' is not a gap of 0.1 to 100 %", "give percent of the mean, such as 10%"
        )
    preset = load_preset(*files)
    if preset.settings.retraining is None:
        raise UserError(preset.source, "names no scatter of training", "add `retraining: NAME` (config/retraining)")
    retraining, gap = load_retraining(preset.settings.retraining), float(number) / 100
    rows: list[Sequence[str]] = [("metric", "scatter", "seeds, 95 %", "seeds, verdicts' 99 %")]
    for metric, std in retraining.std.items():
        counts = [seeds_to_detect(gap, std, confidence=one) if std else 2 for one in (CONFIDENCE, DECIDING)]
        rows.append((metric, f"{100 * std:.1f} %", *map(str, counts)))
    title = f"training seeds of each of two methods, from one teacher, that show a gap of {number} %"
    lines = [f"{title} with a probability of {POWER:.0%}:", *_aligned(rows)]
    return "\n".join([*lines, f"scatter: {retraining.source}, taken as known and equal for both methods"])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _row(title: str, jobs: Sequence[Cost]) -> tuple[str, str, str, str, str, str]:
    """A line of the table: sums over jobs, and the largest memory; an empty cell for 0."""
    hours, memory = sum(job.gpu_hours for job in jobs), max((job.memory_gb for job in jobs), default=0.0)
    download, disk = sum(job.download_gb for job in jobs), sum(job.disk_gb for job in jobs)
    return (
        title,
        str(sum(job.jobs for job in jobs)),
        (f"{hours:,.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min") if hours else "",
        f"{memory:.0f} GB" if memory else "",
        f"{download:,.1f} GB" if download else "",
        f"{disk:,.1f} GB" if disk else "",
    )


def wall_hours(jobs: Mapping[str, Cost], gpus: int) -> float:
    """Hours until the last job ends, at least: of the longest chain of jobs, or of all GPUs at work.

    Args:
        jobs: Jobs by product; each precedes the jobs that wait for it.
        gpus: Number of GPUs.
    """
    ends: dict[str, float] = {}
    for name, job in jobs.items():
        hours = job.cpu_hours + (job.gpu_hours / job.gpus if job.gpus else 0.0)
        ends[name] = hours + max((ends[other] for other in job.after), default=0.0)
    return max([*ends.values(), sum(job.gpu_hours for job in jobs.values()) / gpus])
