"""Costs for the documentation, as ``sida plan`` counts them as if nothing were there yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eval.results.sheet import Run
    from workflow.planning.jobs import Jobs

#: The preset whose targets experiments name for the paper's scale.
PAPER = "config/paper.yaml"


def _jobs(root: Path, config: str, gpu: str) -> Jobs:
    from workflow.planning.costs import Costs
    from workflow.planning.jobs import Jobs
    from workflow.planning.rates import load_assumptions
    from workflow.preset import Preset

    assumptions = load_assumptions()
    return Jobs(Costs(Preset.load(root / config), assumptions.gpu(gpu), gpu, assumptions, fresh=True))


def _shown_in_tables(run: Run) -> bool:
    """Whether a row is SiD or its kin, as Tables 1 to 7 have it."""
    return run.method in ("sid", "sida", "sid2a") and run.family != "Ablation"


def trainings(root: Path, config: str, gpu: str, part: str) -> str:
    """Hours of one card that the shortest and the longest distillation of a preset take.

    Args:
        root: The repository.
        config: The preset.
        gpu: Card of ``config/plan.yaml``.
        part: ``tables``: SiD and its kin in Tables 1 to 7; ``others``: the rest.
    """
    jobs = _jobs(root, config, gpu)
    chosen = [run.run for run in jobs.preset.students() if _shown_in_tables(run) == (part == "tables")]
    spent = [jobs.costs.student(name).gpu_hours for name in chosen]
    return f"{min(spent):,.0f} to {max(spent):,.0f}"


def planned(root: Path, config: str, target: str | Sequence[str], key: str, gpu: str = "H200") -> str:
    """A sum of the plan of a target, or of several, one of the totals of :func:`workflow.planning.plan.make_plan`."""
    from workflow.planning.plan import make_plan

    value = make_plan(_jobs(root, config, gpu), [target] if isinstance(target, str) else target, 1)["totals"][key]
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def hours(root: Path, config: str, gpu: str) -> str:
    """A table of the trainings of SiD and its kin: length in million images and hours of one card, by teacher.

    Args:
        root: The repository.
        config: The preset.
        gpu: Card of ``config/plan.yaml``.
    """
    jobs = _jobs(root, config, gpu)
    preset = jobs.preset
    cells: dict[str, dict[tuple[str, float], str]] = {}
    memory: dict[str, float] = {}
    for run in preset.students():
        if not _shown_in_tables(run):
            continue
        job, name = jobs.costs.student(run.run), str(run.teacher).removeprefix("teacher-")
        millions = job.facts["images"] / 1e6
        text = f"{millions:.0f}" if millions >= 100 else f"{millions:.1f}"
        text += f": {job.gpu_hours:,.0f} h"
        cells.setdefault(name, {})[run.method, 1.0 if run.alpha is None else float(run.alpha)] = text
        memory[name] = max(memory.get(name, 0.0), job.memory_gb)
    columns = {("sid", 1.0): "SiD, α = 1.0", ("sid", 1.2): "SiD, α = 1.2", ("sida", 1.0): "SiDA"}
    columns |= {("sid2a", 1.0): "SiD2A, α = 1.0", ("sid2a", 1.2): "SiD2A, α = 1.2"}
    lines = [f"| teacher | {' | '.join(columns.values())} | memory of a GPU |", "|---" * (len(columns) + 2) + "|"]
    for name, row in cells.items():
        lines.append(f"| {name} | {' | '.join(row.get(key, '') for key in columns)} | {memory[name]:.0f} GB |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def measuring(root: Path, config: str, gpu: str, part: str = "") -> str:
    """Hours of one card to measure a preset's generators: networks, decoders and feature networks.

    Args:
        root: The repository.
        config: The preset.
        gpu: Card of ``config/plan.yaml``.
        part: ``one`` or ``several``: the sum over generators of one step or of more; without it a table by protocol.
    """
    jobs = _jobs(root, config, gpu)
    preset = jobs.preset
    sums: dict[tuple[str, str], tuple[int, float]] = {}
    for job in jobs.behind([]).values():
        if job.kind == "measure":
            row = preset.runs[job.name]
            steps = "several" if (preset.specs.measurement(row.run)["nfe"] or 1) > 1 else "one"
            key = preset.protocol(row).name, steps
            count, before = sums.get(key, (0, 0.0))
            sums[key] = count + 1, before + job.gpu_hours
    if part:
        return f"{sum(spent for (_, steps), (_, spent) in sums.items() if steps == part):,.0f}"
    lines = ["| protocol | one step: generators | hours | several steps: generators | hours |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(name for name, _ in sums):
        cells = [sums.get((name, steps), (0, 0.0)) for steps in ("one", "several")]
        texts = [f"{count} | {spent:,.1f}" if count else " | " for count, spent in cells]
        lines.append(f"| `{name}` | {' | '.join(texts)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"
