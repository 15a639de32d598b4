"""Retries of a job: those of the user for faults, and one for each time limit that the plan expects.

A training longer than the site's time limit ends at the limit and resumes in its next attempt; so does a measurement of
several trials if each trial is shorter than the limit. The resource `PIECES` is the number of attempts. Snakemake has
retries of rules only, so a rule gets the number of its longest job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Resource of a job longer than the site's limit: number of planned attempts; 0: there is no plan.
PIECES = "pieces"


def allow_attempts(workflow: Any, resumable: Mapping[str, int | None]) -> list[str]:
    """Sets the retries of rules to the planned attempts of their jobs, before the first job starts.

    Args:
        workflow: Snakemake's workflow with its jobs.
        resumable: Rules whose jobs resume after an attempt, with the largest useful number of attempts: None for any
            number, for a measurement its trials. Jobs of other rules start from the beginning.

    Returns:
        Lines for people about jobs with several attempts, without a plan, or that cannot end within the limit.
    """
    faults = workflow.execution_settings.retries
    asked = [(job, job.resources.get(PIECES)) for job in workflow.dag.needrun_jobs()]
    long = [(pieces, job) for job, pieces in asked if pieces is not None]
    several = [(pieces, job) for pieces, job in long if 1 < pieces <= _most(job, resumable)]
    for pieces, job in several:
        job.rule.restart_times = max(job.rule.restart_times, faults + pieces - 1)
    lines = []
    if several:
        most, longest = max(several, key=lambda found: found[0])
        lines.append(
            f"jobs longer than max_hours of the site file, which resume in further attempts: {len(several)}; "
            f"{_name(longest)} needs {most}, and {faults} retries for faults come on top"
        )
    unknown = [job for pieces, job in long if resumable.get(job.rule.name, 1) is None and not pieces]
    if unknown:
        lines.append(
            f"trainings without a plan (a card or network without a rate): {len(unknown)}, {_name(unknown[0])} among "
            f"them; sent again {faults} times: if they need more attempts of max_hours, give --retries"
        )
    hopeless = [job for pieces, job in long if pieces > max(1, _most(job, resumable))]
    if hopeless:
        lines.append(
            f"jobs planned longer than max_hours of the site file, which no further attempt ends: {len(hopeless)}, "
            f"{_name(hopeless[0])} among them; cut measurements by shard_size (docs/cluster.md)"
        )
    return lines


def _most(job: Any, resumable: Mapping[str, int | None]) -> float:
    """Largest useful number of attempts of a job."""
    most = resumable.get(job.rule.name, 1)
    return float("inf") if most is None else most


def _name(job: Any) -> str:
    return " ".join([job.rule.name, *map(str, job.wildcards_dict.values())])
