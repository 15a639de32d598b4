"""Rule COST: images or seconds until a level is reached, over pairs of training seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.claims.evidence import Evidence, NotMeasuredError
from eval.claims.model import UNDECIDED, Claim, Finding, Operand, Outcome, Part
from eval.claims.numbers import Decision, decide_range, operand_a, operand_b
from eval.claims.seeds import seeds_of
from eval.claims.training import level_of
from eval.effects.level import Cost, Speedup, crossing, seconds_until, speedup
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import UserError


@dataclass(frozen=True)
class ClaimCosts:
    """Costs of A and B for each pair of training seeds, and the ratio B/A.

    Attributes:
        levels: Level of each pair.
        meaning: Description of the level.
        pairs: Costs ``(A, B)`` in images or seconds.
        names: Runs ``(A, B)`` of each pair.
        ratio: Ratio over all pairs.
    """

    levels: tuple[float, ...]
    meaning: str
    pairs: tuple[tuple[Cost, Cost], ...]
    names: tuple[tuple[str, str], ...]
    ratio: Speedup


def costs_of(part: Part, evidence: Evidence, where: str) -> ClaimCosts:
    """Costs of A and B until a level: ``level`` of the part, by default the lowest value of B's curve.

    If ``level`` matches runs of several teachers, each pair uses the run of its own teacher.

    Raises:
        NotMeasuredError: Too few training seeds, seeds of one side only, or no logs.
    """
    if evidence.by_published:
        raise NotMeasuredError("the papers print the curves only as pictures")
    sides = [
        {(evidence.teacher(name), evidence.runs[name].seed or 0): name for name in seeds_of(o, part, evidence, where)}
        for o in (operand_a(part), operand_b(part))
    ]
    if odd := sorted(set(sides[0]) ^ set(sides[1])):
        listed = ", ".join(f"{teacher} seed {seed}".strip() for teacher, seed in odd)
        raise NotMeasuredError(f"only one side has runs of {listed}; costs are compared between equal seeds")
    levels, meaning, names = [], "", []
    blocks: dict[str, list[tuple[Cost, Cost]]] = {}
    for place in sides[0]:
        pair = (sides[0][place], sides[1][place])
        level, meaning = _level(pair[1], place[0], part, evidence, where)
        levels.append(level)
        names.append(pair)
        first, second = (_cost(name, level, part, evidence) for name in pair)
        blocks.setdefault(place[0], []).append((first, second))
    try:
        ratio = speedup(blocks)
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None
    # Pairs in the order of the blocks, as the ratios are.
    order = [i for teacher in blocks for i, place in enumerate(sides[0]) if place[0] == teacher]
    pairs = tuple(pair for block in blocks.values() for pair in block)
    return ClaimCosts(tuple(levels[i] for i in order), meaning, pairs, tuple(names[i] for i in order), ratio)


def cost(part: Part, evidence: Evidence, where: str) -> Finding:
    """COST: A reaches a level for at most 1/factor of the cost of B, over pairs of training seeds."""
    found = costs_of(part, evidence, where)
    unit = part.quantity or "images"
    span = sorted({f"{level:.4g}" for level in (min(found.levels), max(found.levels))}, key=float)
    names = [evidence.label(found.names[0][side]) for side in (0, 1)]
    spent = [", ".join(_shown(pair[side]) for pair in found.pairs) for side in (0, 1)]
    text = (
        f"{unit} until {part.metric} {' to '.join(span)} ({found.meaning}; {part.crossing}): {names[0]} {spent[0]}; "
        f"{names[1]} {spent[1]}; {ratio_text(found.ratio)}, claimed at least {part.factor:g}"
    )
    outcome, decided = _outcome(found.ratio, part.factor)
    if decided is not None:
        text += f"; {decided.text}"
    numbers: dict[str, object] = {
        "ratios": list(found.ratio.ratios), "ratio": found.ratio.mean, "never_a": found.ratio.never_a,
        "never_b": found.ratio.never_b, "pairs": len(found.pairs), "factor": part.factor, "censored": found.ratio.bound,
    }  # fmt: skip
    return Finding(outcome, text, numbers | (decided.numbers if decided else {}))


def cost_table(claims: Sequence[Claim], evidence: Evidence) -> Table:
    """Table of all comparisons by rule COST: level, costs of both and their ratio, in images and in seconds."""
    heads = ("claim", "until", "A", "A spends", "B", "B spends", "B / A")
    rows, notes = [], []
    for name, part in (line for claim in claims for line in _lines(claim)):
        try:
            rows.append(Row(tuple(map(Cell, _line(name, part, evidence)))))
        except NotMeasuredError as reason:
            rows.append(Row((Cell(name), Cell(kind="missing"), *[Cell(kind="blank")] * (len(heads) - 2))))
            notes.append(f"{name}: {reason}.")
    columns = tuple(Column(head) for head in heads)
    return Table("cost", "", "", "measured", columns, tuple(rows), tuple(notes))


def _lines(claim: Claim) -> Iterator[tuple[str, Part]]:
    for number, part in enumerate(claim.parts):
        if part.rule == "COST":
            name = f"{claim.id}/{number + 1}" if number else claim.id
            yield name, part
            if part.quantity is None:
                yield f"{name}, in seconds", dataclasses.replace(part, quantity="seconds")


def _line(name: str, part: Part, evidence: Evidence) -> list[str]:
    found = costs_of(part, evidence, name)
    span = sorted({f"{level:.3g}" for level in (min(found.levels), max(found.levels))}, key=float)
    cells = [name, f"{part.metric} {' to '.join(span)}: {found.meaning}"]
    for side in (0, 1):
        spent = [pair[side] for pair in found.pairs]
        mean = Cost(math.exp(math.fsum(math.log(cost.value) for cost in spent) / len(spent)), True)
        never = sum(not cost.reached for cost in spent)
        shown = f"{'> ' if never else ''}{_shown(mean)} {part.quantity or 'images'}"
        cells += [evidence.label(found.names[0][side]), shown + (f", {never} of {len(spent)} never" if never else "")]
    return [*cells, ratio_text(found.ratio)]


def ratio_text(found: Speedup) -> str:
    """Text of a ratio: ``ratio 4.1 [3.2, 5.2] of 6 pairs``; with censored runs a bound and their number."""
    pairs = len(found.ratios)
    never = [f"{n} of {pairs} of {side} never" for side, n in (("A", found.never_a), ("B", found.never_b)) if n]
    if found.mean is None:
        return f"ratio unknown: {', '.join(never)}"
    text = f"ratio {found.bound + ' ' if found.bound else ''}{found.mean:.2g}"
    if found.ratio:
        low, high = (f"{end:.2g}" if end < 1e4 else "∞" for end in (found.ratio.low, found.ratio.high))
        text += f" [{low}, {high}]"
    return text + f" of {pairs} pairs" + (f" ({', '.join(never)})" if never else "")


def _outcome(found: Speedup, factor: float) -> tuple[Outcome, Decision | None]:
    """Decides by the interval; censored runs decide only in the direction of their bound, if each pair confirms it."""
    if found.logarithm is None:
        return UNDECIDED, None
    decided = decide_range(found.logarithm, math.log(factor), shown=math.exp)
    if not found.bound:
        return decided.outcome, decided
    every = [ratio for ratio in found.ratios if ratio is not None]
    confirmed = (
        min(every) >= factor and found.bound == "at least"
        if decided.outcome == "supported"
        else max(every) < factor and found.bound == "at most"
    )
    return decided.outcome if confirmed else UNDECIDED, decided


def _level(run_b: str, teacher: str, part: Part, evidence: Evidence, where: str) -> tuple[float, str]:
    curve = evidence.curve(run_b, part.metric)
    if part.level is None:
        return min(point.value for point in curve), "the lowest value of each seed of the second"
    chosen, shared = part.level, True
    if chosen.where is not None and not evidence.by_published:
        names = evidence.runs_of(chosen, f"{where}.level")
        own = [name for name in names if evidence.teacher(name) == teacher] if len(names) > 1 else names
        if len(own) != 1:
            raise NotMeasuredError(f"{len(own)} levels for teacher '{teacher}' among {', '.join(names)}; need one")
        chosen, shared = Operand(run=own[0]), len(names) == 1
    level, _, meaning = level_of(chosen, part.metric, curve, evidence, where)
    return level, meaning if shared else f"each pair's own teacher, such as {meaning}"


def _cost(run: str, level: float, part: Part, evidence: Evidence) -> Cost:
    points = [(float(p.nimg), p.value) for p in evidence.curve(run, part.metric, finite=False)]
    found = crossing(points, level, part.crossing)
    if part.quantity != "seconds":
        return found
    try:
        return Cost(seconds_until(_ticks(run, evidence), found.value), found.reached)
    except UserError as reason:
        raise NotMeasuredError(f"run '{run}': {reason}") from None


def _ticks(run: str, evidence: Evidence) -> Sequence[tuple[float, float]]:
    try:
        return [(float(tick["nimg"]), float(tick["seconds"])) for tick in evidence.ticks(run)]
    except (KeyError, TypeError):
        raise NotMeasuredError(f"the training log of run '{run}' has no seconds") from None


def _shown(found: Cost) -> str:
    digits = max(0, math.floor(math.log10(found.value)) - 2) if found.value > 0 else 0
    return f"{'' if found.reached else '> '}{round(found.value, -digits):,.0f}"
