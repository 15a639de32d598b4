"""Rule COST: images or seconds until a level, over pairs of training seeds; and the table of all such comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.claims.curves import level_of, require_curves
from eval.claims.evidence import BLOCKS, Decision, Evidence, decide_range
from eval.claims.model import UNDECIDED, Claim, Finding, Measured, Operand, Outcome
from eval.effects.contrast import Cost, Crossing, NotMeasuredError, Speedup, crossing, seconds_until, speedup
from eval.tables.model import Cell, Column, Row, Table


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

    def level_text(self, digits: int) -> str:
        """The smallest and the largest level, with this many digits."""
        return " to ".join(sorted({f"{one:.{digits}g}" for one in (min(self.levels), max(self.levels))}, key=float))


@dataclass(frozen=True, kw_only=True)
class CostRule(Measured):
    """Rule COST: A falls to a level for at most a share of B's images or seconds, over training seeds.

    Attributes:
        b: The generators that A's are compared with.
        factor: Least ratio B/A.
        level: A run's measured mean or a published number; by default B's own minimum.
        quantity: What is spent, ``images`` (the default; the table of costs then has both) or ``seconds``.
        crossing: Whether a level counts as reached between two evaluations (linear), or at the first evaluation that
            is not above the level.
        seeds: Least number of training seeds.
    """

    text = (
        "what A spends (images, or seconds of training without evaluations) until its curve first falls to a level, "
        "against B: the 95 % interval of the geometric mean of the ratios B/A over at least three pairs of equal "
        f"training seeds ({BLOCKS}) lies at or above the factor, or below it; a run that never reaches the level "
        "counts as a bound, which decides in its own direction alone and where every pair says so"
    )
    effects = {"ratio": "ratio of {}"}
    b: Operand
    factor: float = 1.0
    level: Operand | None = None
    quantity: Literal["images", "seconds"] | None = None
    crossing: Crossing = "interpolated"
    seeds: int = 3

    @property
    def measured(self) -> str:
        """The metric, unless the rule says what is spent."""
        return "" if self.quantity else self.metric

    @property
    def subject(self) -> str:
        """Images, or the quantity that the rule names."""
        return self.quantity or "images"

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A reaches a level for at most 1/factor of the cost of B, over pairs of training seeds."""
        found = self.costs(evidence, where)
        names = [evidence.label(name) for name in found.names[0]]
        spent = [", ".join(map(_shown, side)) for side in zip(*found.pairs)]
        text = (
            f"{self.subject} until {self.metric} {found.level_text(4)} ({found.meaning}; {self.crossing}): "
            f"{names[0]} {spent[0]}; {names[1]} {spent[1]}; {ratio_text(found.ratio)}, claimed at least {self.factor:g}"
        )
        outcome, decided = _outcome(found.ratio, self.factor)
        text += f"; {decided.text}" if decided else ""
        numbers: dict[str, object] = {
            "ratios": list(found.ratio.ratios), "ratio": found.ratio.mean, "never_a": found.ratio.never_a,
            "never_b": found.ratio.never_b, "pairs": len(found.pairs), "factor": self.factor,
            "censored": found.ratio.bound,
        }  # fmt: skip
        return Finding(outcome, text, numbers | (decided.numbers if decided else {}))

    def costs(self, evidence: Evidence, where: str) -> ClaimCosts:
        """Costs of A and B until the level.

        If ``level`` matches runs of several teachers, each pair uses the run of its own teacher.

        Raises:
            NotMeasuredError: Too few training seeds, seeds of one side only, or no logs.
        """
        require_curves(evidence)
        sides = [
            {(evidence.teacher(n), evidence.runs[n].seed or 0): n for n in evidence.seeds_of(one, self.seeds, where)}
            for one in (self.a, self.b)
        ]
        if odd := sorted(set(sides[0]) ^ set(sides[1])):
            listed = ", ".join(f"{teacher} seed {seed}".strip() for teacher, seed in odd)
            raise NotMeasuredError("", f"only one side has runs of {listed}; costs are compared between equal seeds")
        meaning = ""
        by_teacher: dict[str, list[tuple[float, tuple[str, str], tuple[Cost, Cost]]]] = {}
        for key, run_a in sides[0].items():
            run_b = sides[1][key]
            level, meaning = self._level(run_b, key[0], evidence, where)
            pair = (self._cost(run_a, level, evidence), self._cost(run_b, level, evidence))
            by_teacher.setdefault(key[0], []).append((level, (run_a, run_b), pair))
        ratio = speedup({teacher: [pair for _, _, pair in found] for teacher, found in by_teacher.items()})
        levels, names, pairs = zip(*(one for found in by_teacher.values() for one in found))
        return ClaimCosts(levels, meaning, pairs, names, ratio)

    def _level(self, run_b: str, teacher: str, evidence: Evidence, where: str) -> tuple[float, str]:
        curve = evidence.curve(run_b, self.metric)
        if self.level is None:
            return min(point.value for point in curve), "the lowest value of each seed of the second"
        chosen, shared = self.level, True
        if chosen.where is not None:
            names = evidence.runs_of(chosen, f"{where}.level")
            own = [name for name in names if evidence.teacher(name) == teacher] if len(names) > 1 else names
            if len(own) != 1:
                fault = f"{len(own)} levels for teacher '{teacher}' among {', '.join(names)}; need one"
                raise NotMeasuredError("", fault)
            chosen, shared = Operand(run=own[0]), len(names) == 1
        level, _, meaning = level_of(chosen, self.metric, curve, evidence, where)
        return level, meaning if shared else f"each pair's own teacher, such as {meaning}"

    def _cost(self, run: str, level: float, evidence: Evidence) -> Cost:
        points = [(float(p.nimg), p.value) for p in evidence.curve(run, self.metric, finite=False)]
        found = crossing(points, level, self.crossing)
        if self.quantity != "seconds":
            return found
        try:
            ticks = [(float(tick["nimg"]), float(tick["seconds"])) for tick in evidence.ticks(run)]
        except (KeyError, TypeError):
            raise NotMeasuredError("", f"the training log of run '{run}' has no seconds") from None
        return Cost(seconds_until(ticks, found.value), found.reached)


def cost_table(claims: Sequence[Claim], evidence: Evidence) -> Table:
    """Table of all comparisons by rule COST: level, costs of both and their ratio, in images and in seconds."""
    heads = ("claim", "until", "A", "A spends", "B", "B spends", "B / A")
    rows, notes = [], []
    for name, rule in (line for claim in claims for line in _lines(claim)):
        try:
            rows.append(Row(tuple(map(Cell, _line(name, rule, evidence)))))
        except NotMeasuredError as reason:
            rows.append(Row((Cell(name), Cell(kind="missing"), *[Cell(kind="blank")] * (len(heads) - 2))))
            notes.append(f"{name}: {reason}.")
    columns = tuple(Column(head) for head in heads)
    return Table("cost", "", "", "measured", columns, tuple(rows), tuple(notes))


def _lines(claim: Claim) -> Iterator[tuple[str, CostRule]]:
    for name, _, rule in claim.named_parts(CostRule):
        yield name, rule
        if rule.quantity is None:
            yield f"{name}, in seconds", dataclasses.replace(rule, quantity="seconds")


def _line(name: str, rule: CostRule, evidence: Evidence) -> list[str]:
    found = rule.costs(evidence, name)
    cells = [name, f"{rule.metric} {found.level_text(3)}: {found.meaning}"]
    for run, spent in zip(found.names[0], zip(*found.pairs)):
        mean = Cost(math.exp(math.fsum(math.log(cost.value) for cost in spent) / len(spent)), True)
        never = sum(not cost.reached for cost in spent)
        shown = f"{'> ' if never else ''}{_shown(mean)} {rule.subject}"
        cells += [evidence.label(run), shown + (f", {never} of {len(spent)} never" if never else "")]
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


def _shown(found: Cost) -> str:
    digits = max(0, math.floor(math.log10(found.value)) - 2) if found.value > 0 else 0
    return f"{'' if found.reached else '> '}{round(found.value, -digits):,.0f}"
