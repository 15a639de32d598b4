"""The plan of targets: jobs with their costs, totals and assumptions, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import functools
import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from eval.results.published import load_published
from eval.results.summary import Measurements
from eval.tables.layout import TableSources, load_table_layout
from workflow.planning.costs import SMALLER, Job, too_large
from workflow.planning.jobs import Jobs
from workflow.preset import Preset

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
    "training included; GDD and instance are counted like SiDA and SiD",
    "memory: counted tensors of a round (batch_gpu) and 10 % gaps; disk: two generations of a state, plain archives",
    "energy: the card's power while it works; without processors, cooling and downloads",
    "wall time: jobs one after another on these GPUs, longest chain first; without downloads and queues",
)


def make_plan(jobs: Jobs, targets: Sequence[str], gpus: int) -> dict[str, Any]:
    """Plan of targets as JSON values.

    Args:
        jobs: Jobs of the preset.
        targets: See :meth:`Jobs.behind`.
        gpus: Number of GPUs.

    Returns:
        ``preset, targets, gpu, gpus, rates, jobs`` (a list), ``totals, too_large, assumptions``.

    Raises:
        UserError: No such target, or an unknown network or rate.
    """
    found = jobs.behind(targets)
    scores = published_scores(jobs.preset) if any(job.kind == "student" for job in found.values()) else {}
    for job in found.values():
        if job.kind == "student":
            job.facts["published"] = scores.get(job.name, {})
    costs = jobs.costs
    measured = {"float16": costs.rates.get(True), "float32": costs.rates.get(False)}
    return {
        "preset": jobs.preset.name,
        "targets": list(targets),
        "gpu": costs.gpu_name,
        "gpus": gpus,
        "tflops": {name: rate / 1e12 if rate else getattr(costs.gpu, name) for name, rate in measured.items()},
        "rates_from": "measured here" if costs.rates else costs.gpu.source,
        "jobs": [{"product": product, **dataclasses.asdict(job)} for product, job in found.items()],
        "totals": _totals(found, jobs, gpus),
        "too_large": too_large(found.values(), costs.gpu.memory_gb, costs.gpu_name),
        "assumptions": list(ASSUMED),
    }


def _totals(found: Mapping[str, Job], jobs: Jobs, gpus: int) -> dict[str, Any]:
    sums = ("download_gb", "disk_gb", "gpu_hours", "cpu_hours")
    totals: dict[str, Any] = {key: sum(getattr(job, key) for job in found.values()) for key in sums}
    totals |= {"jobs": len(found), "memory_gb": max((job.memory_gb for job in found.values()), default=0.0)}
    return totals | {
        "kwh": totals["gpu_hours"] * jobs.costs.gpu.watts / 1000,
        "wall_hours": wall_hours(found, gpus),
    }


def show_plan(plan: Mapping[str, Any]) -> str:
    """The plan as text: a table of jobs, totals and assumptions."""
    jobs = plan["jobs"]
    rows: list[tuple[str, ...]] = [("what", "jobs", f"{plan['gpu']} hours", "memory", "download", "disk", "to reach")]
    for kind, title in KINDS.items():
        some = [job for job in jobs if job["kind"] == kind]
        if not some:
            continue
        rows.append(_row(title, some, ""))
        if kind in ("teacher", "student"):
            for job in some:
                scores = job["facts"].get("published", {}).items()
                rows.append(_row(f"  {job['name']}", [job], ", ".join(f"{metric} {text}" for metric, text in scores)))
    totals = plan["totals"]
    rows.append(_row("all", jobs, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    rates = ", ".join(f"{rate:.3g} TFLOP/s in {name}" for name, rate in plan["tflops"].items() if rate)
    lines += [
        "",
        f"on {plan['gpus']} × {plan['gpu']}: {span(totals['wall_hours'])}, {totals['kwh']:,.0f} kWh",
        f"rates: {rates} ({plan['rates_from']})",
        *plan["assumptions"],
    ]
    if plan["too_large"]:
        lines.append(f"warning: {plan['too_large']}; {SMALLER}")
    for code in plan.get("code", []):
        lines.append(f"code from outside the package: {code['name']} from {code['source']} ({code['where']}; allowed)")
    unknown = [job["name"] for job in jobs if job["facts"].get("network_unknown")]
    if unknown:
        few = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        lines.append(f"without the evaluations of {len(unknown)} networks that the preset does not describe: {few}")
    return "\n".join(lines)


def span(hours: float) -> str:
    """Formats hours as ``0.3 hours`` or ``12.5 days``."""
    return f"{hours / 24:,.1f} days" if hours > 48 else f"{hours:,.1f} hours"


def _row(title: str, jobs: Sequence[Mapping[str, Any]], score: str) -> tuple[str, ...]:
    total = lambda key: sum(job[key] for job in jobs)
    memory = max((job["memory_gb"] for job in jobs), default=0.0)
    cells = [
        f"{total('gpu_hours'):,.1f}" if total("gpu_hours") else "",
        f"{memory:.0f} GB" if memory else "",
        f"{total('download_gb'):,.1f} GB" if total("download_gb") else "",
        f"{total('disk_gb'):,.1f} GB" if total("disk_gb") else "",
    ]
    return (title, str(len(jobs)), *cells, score)


def published_scores(preset: Preset) -> dict[str, dict[str, str]]:
    """Published scores by run: metric to ``value ± std`` as printed, from the later of several tables."""
    published, scores = load_published(), dict[str, dict[str, str]]()
    for name in preset.settings.tables:
        layout = load_table_layout(preset.layout("tables", name))
        if layout.mode == "measured":
            continue  # it shows no published score
        table = layout.build(TableSources(Measurements([], preset.sheet), preset.runs, published, "audit"))
        for record in table.records:
            if record["run"] and record["published"]:
                text = " ± ".join(filter(None, (record["published"], record["published_std"])))
                scores.setdefault(record["run"], {})[record["metric"]] = text
    return scores


def wall_hours(jobs: Mapping[str, Job], gpus: int) -> float:
    """Hours until the last job ends; jobs without a GPU run in parallel.

    Args:
        jobs: Jobs by product; each precedes the jobs that wait for it.
        gpus: Number of GPUs.
    """

    def hours(job: Job) -> float:
        return job.cpu_hours + (job.gpu_hours / job.gpus if job.gpus else 0.0)

    after: dict[str, list[str]] = {name: [] for name in jobs}
    for name, job in jobs.items():
        for other in job.after:
            after[other].append(name)

    @functools.cache
    def chain(name: str) -> float:
        return hours(jobs[name]) + max(map(chain, after[name]), default=0.0)

    missing = {name: len(job.after) for name, job in jobs.items()}
    ready = [(-chain(name), name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now, free = 0.0, gpus
    while ready or running:
        waiting = []
        while ready:
            entry = heapq.heappop(ready)
            job = jobs[entry[1]]
            if min(job.gpus, gpus) <= free:
                free -= min(job.gpus, gpus)
                heapq.heappush(running, (now + hours(job), entry[1]))
            else:
                waiting.append(entry)
        for entry in waiting:
            heapq.heappush(ready, entry)
        now, name = heapq.heappop(running)
        free += min(jobs[name].gpus, gpus)
        for other in after[name]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, (-chain(other), other))
    return now
