"""Differences of two methods over training seeds: rule TRAIN, and helpers for tables, power and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eval.claims.evidence import Evidence, NotMeasuredError, same_budget
from eval.claims.model import Finding, Operand, Part
from eval.claims.numbers import decide_gain, operand_a, operand_b, show, sides_of
from eval.effects.contrast import Effect, Estimated, difference, mean_interval
from eval.results.summary import Estimate
from sida.errors import UserError


def seeds_of(operand: Operand, part: Part, evidence: Evidence, where: str) -> list[str]:
    """Ids of the measured runs of an operand: at least as many training seeds as the part requires.

    Raises:
        NotMeasuredError: There are fewer training seeds.
    """
    if evidence.by_published:
        raise NotMeasuredError("the papers report one training run of each")
    names = evidence.runs_of(operand, where)
    if len(names) < part.seeds:
        have = "one training seed" if len(names) == 1 else f"{len(names)} training seeds"
        raise NotMeasuredError(f"{have}; this claim is about training and needs {part.seeds}")
    return names


def over_seeds(operand: Operand, names: Sequence[str], part: Part, evidence: Evidence) -> tuple[str, Estimate]:
    """Name and mean ± std over the runs of an operand."""
    values = [evidence.value(operand, name, part.metric) for name in names]
    return f"{evidence.name(operand, names)}; {len(names)} training seeds", Estimate.of(values)


def by_teacher(names: Sequence[str], value: Callable[[str], float], evidence: Evidence) -> dict[str, list[float]]:
    """Values of runs, grouped by teacher."""
    blocks: dict[str, list[float]] = {}
    for name in names:
        blocks.setdefault(evidence.teacher(name), []).append(value(name))
    return blocks


def interval_over(names: Sequence[str], value: Callable[[str], float], evidence: Evidence) -> Estimated:
    """Mean of a number over runs with its interval, within teachers.

    Raises:
        NotMeasuredError: Too few training seeds of every teacher.
    """
    try:
        return mean_interval(by_teacher(names, value, evidence))
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None


def blocks_of(operand: Operand, names: Sequence[str], metric: str, evidence: Evidence) -> dict[str, list[float]]:
    """Values of a metric for the runs of an operand, grouped by teacher."""
    return by_teacher(names, lambda name: evidence.value(operand, name, metric), evidence)


def effect_of(part: Part, evidence: Evidence, where: str) -> tuple[Effect, list[str], list[str]]:
    """The difference A − B of a part with its interval, the runs of A and the runs of B.

    Raises:
        NotMeasuredError: Too few training seeds, or runs that cannot be compared.
    """
    a, b = operand_a(part), operand_b(part)
    names_a, names_b = (seeds_of(o, part, evidence, f"{where}.{key}") for o, key in ((a, "a"), (b, "b")))
    if part.equal_budget and not same_budget(evidence.budget(name) for name in (*names_a, *names_b)):
        raise NotMeasuredError("budgets differ between the runs")
    try:
        effect = difference(blocks_of(a, names_a, part.metric, evidence), blocks_of(b, names_b, part.metric, evidence))
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None
    return effect, names_a, names_b


def trained(part: Part, evidence: Evidence, where: str) -> Finding:
    """TRAIN: A is better than B over training seeds."""
    effect, names_a, names_b = effect_of(part, evidence, where)
    (name_a, a), (name_b, b) = (
        over_seeds(operand, names, part, evidence)
        for operand, names in ((operand_a(part), names_a), (operand_b(part), names_b))
    )
    effect = effect.moved(-1 if part.direction == "lower" else 1)
    found = decide_gain(effect)
    text = f"{part.metric} {show(a)} ({name_a}) against {show(b)} ({name_b}); gain {effect.value:.3g}, {found.text}"
    if effect.std:
        text += f"; {abs(effect.standardised):.1f} standard deviations over seeds"
    numbers = sides_of(a, b) | {"gain": effect.value} | found.numbers | {
        "std": effect.std, "std_df": effect.std_df, "teachers": len(effect.blocks),
    }  # fmt: skip
    return Finding(found.outcome, text, numbers)
