"""Retries of a job: those of the user for faults, and one for each time limit that the plan expects.

A training that is longer than the site's limit ends with it and goes on in its next attempt, and so does a measurement
of several trials, each shorter than the limit. The resource `PIECES` says how many they need; Snakemake knows only
retries of rules, so a rule gets those of its longest job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Resource of a job that is longer than the site's limit: attempts that the plan expects; 0: nobody can plan it.
PIECES = "pieces"


def allow_attempts(workflow: Any, going_on: Mapping[str, int | None]) -> list[str]:
    """Gives rules the retries that their jobs need, before the first job starts.

    Args:
        workflow: Snakemake's, with its jobs known.
        going_on: By rule whose jobs go on where their last attempt ended, the most attempts that can bring a job to its
            end: None for any number, of a measurement its trials. Jobs of other rules start anew.

    Returns:
        Lines for people: what takes several attempts, what has no plan, and what cannot end within the limit.
    """
    faults = workflow.execution_settings.retries
    asked = [(job, job.resources.get(PIECES)) for job in workflow.dag.needrun_jobs()]
    long = [(pieces, job) for job, pieces in asked if pieces is not None]
    several = [(pieces, job) for pieces, job in long if 1 < pieces <= _most(job, going_on)]
    for pieces, job in several:
        job.rule.restart_times = max(job.rule.restart_times, faults + pieces - 1)
    lines = []
    if several:
        most, longest = max(several, key=lambda found: found[0])
        lines.append(
            f"jobs longer than max_hours of the site file, which go on in further attempts: {len(several)}; "
            f"{_name(longest)} needs {most}, and {faults} retries for faults come on top"
        )
    unknown = [job for pieces, job in long if going_on.get(job.rule.name, 1) is None and not pieces]
    if unknown:
        lines.append(
            f"trainings without a plan (a card or network without a rate): {len(unknown)}, {_name(unknown[0])} among "
            f"them; sent again {faults} times: if they need more attempts of max_hours, give --retries"
        )
    hopeless = [job for pieces, job in long if pieces > max(1, _most(job, going_on))]
    if hopeless:
        lines.append(
            f"jobs planned longer than max_hours of the site file, which no further attempt ends: {len(hopeless)}, "
            f"{_name(hopeless[0])} among them; cut measurements by shard_size (docs/cluster.md)"
        )
    return lines


def _most(job: Any, going_on: Mapping[str, int | None]) -> float:
    """Attempts that bring a job further."""
    most = going_on.get(job.rule.name, 1)
    return float("inf") if most is None else most


def _name(job: Any) -> str:
    return " ".join([job.rule.name, *map(str, job.wildcards_dict.values())])
