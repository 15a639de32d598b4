"""Number of training seeds that each claim about training needs, from the scatter of its own runs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from eval.claims.evidence import Evidence
from eval.claims.model import Claim
from eval.claims.seeds import TrainRule
from eval.effects.contrast import difference, pooled_std
from eval.effects.variance import MOST, Scatter, detectable, of_difference, power_of, seeds_needed, teachers_needed
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import UserError

POWER_NOTE = (
    "Power 80 %, two-sided 5 %, Welch's t within teachers; standard deviations over training seeds as measured. With "
    "three seeds of each method these are easily off by a factor of two, and the numbers of seeds by four. The seeds "
    "for the measured difference say no more than its interval; a plan follows from the smallest difference that "
    "matters."
)


@dataclass(frozen=True)
class PowerPlan:
    """Training seeds and teachers that one comparison of a claim needs.

    Attributes:
        claim: Id of the claim; from the second comparison on ``ID/n``.
        comparison: Labels of A and B.
        metric: Key of the metric.
        difference: Measured A − B; None if it was not measured (the fields below are then empty, too).
        std_a: Standard deviation of A over training seeds within teachers.
        std_b: Standard deviation of B over training seeds within teachers.
        seeds: Training seeds of each method from each teacher (the smallest number).
        teachers: Number of teachers that A and B have in common.
        detectable: Smallest difference that these seeds show with power 80 %.
        needed: Seeds of each method from each teacher for the measured difference; None: more than a thousand.
        smallest: Smallest difference of interest; None if none was given.
        needed_smallest: Seeds for ``smallest``; None: more than a thousand, or no ``smallest``.
        teacher_std: Standard deviation of the difference over teachers; None with one teacher.
        teachers_needed: Teachers with these seeds for a statement about teachers in general; None with one teacher or
            without scatter over teachers.
        reason: Reason why there is no plan.
    """

    claim: str
    comparison: str
    metric: str
    difference: float | None = None
    std_a: float | None = None
    std_b: float | None = None
    seeds: int = 0
    teachers: int = 0
    detectable: float | None = None
    needed: int | None = None
    smallest: float | None = None
    needed_smallest: int | None = None
    teacher_std: float | None = None
    teachers_needed: int | None = None
    reason: str = ""


def plans(
    claims: Sequence[Claim], evidence: Evidence, smallest: str | None = None, source: str = "claims"
) -> list[PowerPlan]:
    """A plan for each comparison by rule TRAIN.

    Args:
        claims: Claims; claims without rule TRAIN are skipped.
        evidence: Measured runs.
        smallest: Smallest difference of interest, in the metric's unit, or with ``%`` as a share of B's mean.
        source: File named in errors.

    Raises:
        UserError: ``smallest`` is not a number above 0.
    """
    share, number = _parsed(smallest)
    return [
        _plan(name, part, evidence, number, share, f"{source}: {where}")
        for claim in claims
        for name, where, part in claim.named_parts(TrainRule)
    ]


def _parsed(smallest: str | None) -> tuple[bool, float | None]:
    if smallest is None:
        return False, None
    share = smallest.endswith("%")
    try:
        number = float(smallest.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UserError(
            f"--smallest {smallest}", "must be a number above 0, or one with % (of the second method's mean)"
        )
    return share, number


def _plan(name: str, part: TrainRule, evidence: Evidence, number: float | None, share: bool, where: str) -> PowerPlan:
    comparison = f"{evidence.name(part.a)} − {evidence.name(part.b)}"
    try:
        # Two seeds are enough to see a scatter, though not to decide.
        (names_a, a), (names_b, b) = part.sides(evidence, where, 2)
        effect = difference(a, b)
        comparison = f"{evidence.name(part.a, names_a)} − {evidence.name(part.b, names_b)}"
        scatter = Scatter(pooled_std(list(a.values()))[0], pooled_std(list(b.values()))[0])
    except UserError as reason:
        return PowerPlan(name, comparison, part.metric, reason=f"{reason}")
    if share and number is not None:
        number *= abs(statistics.fmean(value for cell in b.values() for value in cell))
    teachers = max(1, len(effect.blocks))
    seeds = max(2, min(len(cell) for cell in (*a.values(), *b.values())))
    plan = PowerPlan(
        name, comparison, part.metric, effect.value, scatter.a, scatter.b, seeds, teachers,
        detectable=detectable(scatter, seeds, teachers),
        needed=seeds_needed(effect.value, scatter, teachers),
        smallest=number,
        needed_smallest=seeds_needed(number, scatter, teachers) if number else None,
    )  # fmt: skip
    if teachers < 2:
        return plan
    std = of_difference(a, b).std
    further = teachers_needed(effect.value, dataclasses.replace(scatter, teacher=std), seeds) if std else None
    return dataclasses.replace(plan, teacher_std=std, teachers_needed=further)


def power_table(found: Sequence[PowerPlan]) -> Table:
    """The plans as a table; what was not measured has its reason."""
    with_smallest = any(plan.smallest is not None for plan in found)
    heads = ["claim", "metric", "comparison", "difference", "std A", "std B", "seeds × teachers"]
    heads += ["detectable", "seeds for this"] + ["seeds for the smallest"] * with_smallest
    heads += ["std over teachers", "teachers for all"]
    rows = []
    for plan in found:
        texts = [plan.claim, plan.metric, plan.comparison]
        if plan.difference is None:
            cells = [*map(Cell, texts), Cell(kind="missing"), *[Cell(kind="blank")] * (len(heads) - 4)]
            rows.append(Row(tuple(cells)))
            continue
        texts += [_short(plan.difference, "+"), _short(plan.std_a), _short(plan.std_b)]
        texts += [f"{plan.seeds} × {plan.teachers}", _short(plan.detectable), seeds_text(plan.needed)]
        if with_smallest:
            texts.append(f"{seeds_text(plan.needed_smallest)} ({_short(plan.smallest)})")
        texts += [_short(plan.teacher_std), seeds_text(plan.teachers_needed) if plan.teacher_std else "–"]
        rows.append(Row(tuple(map(Cell, texts))))
    reasons = [f"{plan.claim}: {plan.reason}." for plan in found if plan.difference is None]
    columns = tuple(Column(head, number=i > 2) for i, head in enumerate(heads))
    return Table("power", "", "", "measured", columns, tuple(rows), (*reasons, POWER_NOTE))


def _short(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3g}".replace("-", "−")


def seeds_text(number: int | None) -> str:
    """A number of seeds or teachers; None is more than a thousand."""
    return f"> {MOST:,}" if number is None else f"{number:,}"


def by_numbers(effect: float, scatter: Scatter, seeds: int, teachers: int = 1) -> list[str]:
    """The same for numbers that are given instead of measured ones, as lines of text.

    Raises:
        UserError: Fewer than two seeds, or standard deviations below 0.
    """
    within = Scatter(scatter.a, scatter.b)
    runs = f"{seeds} training seeds of each method" + (f" from each of {teachers} teachers" if teachers > 1 else "")
    lines = [
        f"difference {effect:g}, standard deviations {scatter.a:g} and {scatter.b:g} over training seeds",
        f"{runs}: power {100 * power_of(effect, within, seeds, teachers):.0f} %, "
        f"smallest difference with power 80 %: {detectable(within, seeds, teachers):.3g}",
        f"seeds of each method{' from each teacher' * (teachers > 1)} for power 80 %: "
        f"{seeds_text(seeds_needed(effect, within, teachers))}",
    ]
    if scatter.teacher:
        needed = seeds_text(teachers_needed(effect, scatter, seeds))
        lines.append(f"teachers of {seeds} seeds each, if these scatter by {scatter.teacher:g}: {needed}")
    return lines
