"""How often a job is sent again: as the user says for faults, and once more for each time limit that the plan expects.

A training that is longer than the site's limit ends with it and goes on in its next attempt. Its resource `PIECES` says
how many it needs; Snakemake knows only retries of rules, so a rule gets those of its longest job.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Resource of a job that is longer than the site's limit: attempts that the plan expects; 0: nobody can plan it.
PIECES = "pieces"


def allow_attempts(workflow: Any, going_on: Iterable[str]) -> list[str]:
    """Gives rules the retries that their jobs need, before the first job starts.

    Args:
        workflow: Snakemake's, with its jobs known.
        going_on: Rules whose jobs go on where their last attempt ended. Jobs of others start anew.

    Returns:
        Lines for people: what takes several attempts, what has no plan, and what cannot end within the limit.
    """
    faults, resumed = workflow.execution_settings.retries, set(going_on)
    asked = [(job, job.resources.get(PIECES)) for job in workflow.dag.needrun_jobs()]
    long = [(pieces, job) for job, pieces in asked if pieces is not None]
    several = [(pieces, job) for pieces, job in long if job.rule.name in resumed and pieces > 1]
    for pieces, job in several:
        job.rule.restart_times = max(job.rule.restart_times, faults + pieces - 1)
    lines = []
    if several:
        most, longest = max(several, key=lambda found: found[0])
        lines.append(
            f"trainings longer than max_hours of the site file, which go on in further attempts: {len(several)}; "
            f"{_name(longest)} needs {most}, and {faults} retries for faults come on top"
        )
    unknown = [job for pieces, job in long if job.rule.name in resumed and not pieces]
    if unknown:
        lines.append(
            f"trainings without a plan (a card or network without a rate): {len(unknown)}, {_name(unknown[0])} among "
            f"them; sent again {faults} times: if they need more attempts of max_hours, give --retries"
        )
    hopeless = [job for pieces, job in long if job.rule.name not in resumed and pieces > 1]
    if hopeless:
        lines.append(
            f"jobs planned longer than max_hours of the site file, which start anew in each attempt: {len(hopeless)}, "
            f"{_name(hopeless[0])} among them; cut measurements by trials_per_job or shard_size (docs/cluster.md)"
        )
    return lines


def _name(job: Any) -> str:
    return " ".join([job.rule.name, *map(str, job.wildcards_dict.values())])
