"""Rules that read the curves of evaluations; COST: images or seconds until a level, over pairs of training seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from eval.claims.evidence import (
    Decision,
    Evidence,
    NotMeasuredError,
    Z,
    by_teacher,
    decide_gain,
    decide_range,
    interval_over,
    of_each,
    operand_a,
    operand_b,
    seeds_of,
)
from eval.claims.model import UNDECIDED, Claim, Finding, Operand, Outcome, Part
from eval.effects.contrast import (
    Cost,
    Speedup,
    crossing,
    difference,
    seconds_until,
    speedup,
)
from eval.results.training_logs import Point, first_at_or_below
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import UserError


def diverges(part: Part, evidence: Evidence, where: str) -> Finding:
    """DIVERGES: at the end of its curve a run lies far above the lowest value it had reached."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    curves = {name: _values(evidence, name, part.metric) for name in names}
    rises = {name: values[-1] / min(values) for name, values in curves.items()}
    gone = sum(not math.isfinite(rise) or rise > part.factor for rise in rises.values())
    listed = "; ".join(f"lowest {min(values):.4g}, end {values[-1]:.4g}" for values in curves.values())
    text = (
        f"{part.metric} of {evidence.label(names[0])}: {gone} of {len(names)} seeds end above {part.factor:g} × their "
        f"lowest value ({listed})"
    )
    numbers: dict[str, Any] = {"diverged": gone, "seeds": len(names)}
    if not all(map(math.isfinite, rises.values())):
        lost = not any(map(math.isfinite, rises.values()))
        return Finding("supported" if lost else UNDECIDED, text, numbers)
    rise = interval_over(names, lambda name: math.log(rises[name]), evidence)
    # The lowest of noisy evaluations lies below the curve.
    sure = interval_over(names, lambda name: math.log(rises[name] / _raised(curves, name, part, evidence)), evidence)
    found, least = (decide_range(one, math.log(part.factor), shown=math.exp) for one in (rise, sure))
    outcome = UNDECIDED if found.outcome == "supported" != least.outcome else found.outcome
    text += f"; ratio {math.exp(rise.value):.3g}, {found.text}, with the noise of the lowest "
    text += f"{math.exp(sure.value):.3g}, claimed above {part.factor:g}"
    numbers |= {"rise": math.exp(rise.value)} | found.numbers
    if part.b is None:
        return Finding(outcome, text, numbers)
    others = seeds_of(part.b, part, evidence, f"{where}.b")
    ends = {name: _values(evidence, name, part.metric)[-1] for name in others}
    try:
        above = difference(
            by_teacher(names, lambda name: math.log(curves[name][-1]), evidence),
            by_teacher(others, lambda name: math.log(ends[name]), evidence),
        )
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None
    second = decide_range(above, math.log(part.high), shown=math.exp)
    text += f"; or {math.exp(above.value):.3g} times the end of {evidence.label(others[0])}, {second.text}, claimed "
    both = [outcome, second.outcome]
    outcome = "supported" if "supported" in both else outcome if both[0] == both[1] else UNDECIDED
    return Finding(outcome, f"{text}above {part.high:g}", numbers)


def stable(part: Part, evidence: Evidence, where: str) -> Finding:
    """STABLE: no evaluation lies far above the lowest so far, and the curve falls below its start and stays there."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    curves = {name: evidence.curve(name, part.metric, finite=False) for name in names}
    values = {name: [point.value for point in points] for name, points in curves.items()}
    rises = {name: _rise(found) for name, found in values.items()}
    text = (
        f"{part.metric} of {evidence.label(names[0])}; {len(names)} training seeds: rises to at most "
        f"{max(rises.values()):.2f} × the lowest value so far (allowed {part.factor:g})"
    )
    numbers: dict[str, Any] = {"rise": max(rises.values()), "seeds": len(names)}
    if any(rise / _raised(values, name, part, evidence) > part.factor for name, rise in rises.items()):
        return Finding("contradicted", text, numbers)
    risen = interval_over(names, lambda name: math.log(rises[name]), evidence)
    steady = decide_range(risen, -math.inf, math.log(part.factor), shown=math.exp)
    late = sorted(set.intersection(*({p.nimg for p in points[1:]} for points in curves.values())))
    late = [nimg for nimg in late if nimg >= part.images] if part.images else late[-1:]
    if not late:
        raise NotMeasuredError(f"no evaluation that all seeds share from {part.images:,} images on")
    gains = [interval_over(names, lambda name: _fall(curves[name], nimg), evidence) for nimg in late]  # noqa: B023
    gain = min(gains, key=lambda one: one.low)
    found = decide_gain(gain)
    when = f"from {part.images:,} images on at least" if part.images else "at the end"
    text += f"; below its start {when} by {gain.value:.3g}, {found.text}"
    return Finding(of_each([steady.outcome, found.outcome]), text, numbers | {"gain": gain.value} | found.numbers)


def _values(evidence: Evidence, run: str, metric: str) -> list[float]:
    return [point.value for point in evidence.curve(run, metric, finite=False)]


def _fall(points: Sequence[Point], nimg: int) -> float:
    return points[0].value - next(point.value for point in points if point.nimg == nimg)


def _raised(curves: Mapping[str, Sequence[float]], run: str, part: Part, evidence: Evidence) -> float:
    """Factor by which noise may put the lowest of a curve's evaluations below the curve: that of equal values."""
    return 1 - expected_lowest(len(curves[run])) * evidence.noise_of_one(run, part.metric)


def _rise(values: Sequence[float]) -> float:
    """Largest ratio of a value to the lowest before it."""
    lowest = list(accumulate(values, min))
    # Division cannot tell a rise above infinity.
    return max(
        (later / least if math.isfinite(least) else math.inf for least, later in zip(lowest, values[1:])), default=1.0
    )


def shape(part: Part, evidence: Evidence, where: str) -> Finding:
    """SHAPE: until its lowest value a curve is a straight line of ln metric against images, or against ln images."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    other = "power" if part.form == "exponential" else "exponential"
    fits: dict[str, dict[str, float]] = {}
    for name in names:
        points = [point for point in evidence.curve(name, part.metric) if point.nimg > 0 and point.value > 0]
        lowest = min(range(len(points)), key=lambda i: points[i].value, default=0)
        falling = points[: lowest + 1]
        if len(falling) < 4:
            raise NotMeasuredError(f"{evidence.label(name)}: fewer than four evaluations until the lowest")
        heights = [math.log(point.value) for point in falling]
        places = {"exponential": [float(p.nimg) for p in falling], "power": [math.log(p.nimg) for p in falling]}
        fits[name] = {form: statistics.correlation(x, heights) ** 2 for form, x in places.items()}
    straight = interval_over(names, lambda name: fits[name][part.form], evidence)
    ahead = interval_over(names, lambda name: fits[name][part.form] - fits[name][other], evidence)
    reached, better = decide_range(straight, part.low), decide_gain(ahead)
    outcome = of_each([reached.outcome, better.outcome])
    listed = "; ".join(f"{fit['exponential']:.3f}, {fit['power']:.3f}" for fit in fits.values())
    text = (
        f"{part.metric} of {evidence.label(names[0])} ({part.form}): R² {straight.value:.3f}, {reached.text}, claimed "
        f"at least {part.low:g}; above the other form's by {ahead.value:.3g}, {better.text}; R² of exponential and "
        f"power by seed: {listed}"
    )
    decisive = better if better.outcome == outcome != reached.outcome else reached
    numbers = {"fit": straight.value} if decisive is reached else {"ahead": ahead.value}
    return Finding(outcome, text, numbers | decisive.numbers | {"seeds": len(names)})


def speed(part: Part, evidence: Evidence, where: str) -> Finding:
    """SPEED: compares the images until the running minimum of A and of B first falls to a level."""
    if evidence.by_published:
        raise NotMeasuredError("the papers print the curves only as pictures")
    run_a = evidence.runs_of(operand_a(part), f"{where}.a")[0]
    run_b = evidence.runs_of(operand_b(part), f"{where}.b")[0]
    curve_a, curve_b = evidence.curve(run_a, part.metric), evidence.curve(run_b, part.metric)
    best_b = min(curve_b, key=lambda point: point.value)
    if part.level is None:
        level, error, meaning = best_b.value, _error(best_b), "its lowest value"
    else:
        level, error, meaning = level_of(part.level, part.metric, curve_a + curve_b, evidence, where)
    error = math.hypot(error, level * _scatter([(run_a, curve_a), (run_b, curve_b)], part, evidence))
    slow = first_at_or_below(curve_b, level)
    if slow is None:
        raise NotMeasuredError(f"{evidence.label(run_b)} never reaches {level:.4g} ({meaning})")
    numbers = {"level": level, "images_b": slow, "factor": part.factor}
    fast = first_at_or_below(curve_a, level)
    start = f"{part.metric} {level:.4g} ({meaning}): {evidence.label(run_b)} after {slow:,} images, "
    if fast is None:
        return Finding("contradicted", start + f"{evidence.label(run_a)} never", numbers)
    # Evaluation noise and the spacing of evaluations, both against and for A.
    late = first_at_or_below(curve_a, level - Z * error, shift=Z)
    early = _previous(curve_a, first_at_or_below(curve_a, level + Z * error, shift=-Z))
    least = slow / late if late else 0.0
    most = slow / early if early else float("inf")
    most_text = f"{most:.2g}" if math.isfinite(most) else "unbounded"
    text = (
        start + f"{evidence.label(run_a)} after {fast:,}; ratio {slow / fast:.2f} "
        f"(between {least:.2g} and {most_text} with noise and spacing), claimed at least {part.factor:g}"
    )
    outcome: Outcome = "supported" if least >= part.factor else "contradicted" if most < part.factor else UNDECIDED
    return Finding(outcome, text, {**numbers, "images_a": fast, "ratio": slow / fast})


def reaches(part: Part, evidence: Evidence, where: str) -> Finding:
    """REACHES: the running minimum falls to a multiple of a level within a number of images."""
    if evidence.by_published:
        raise NotMeasuredError("the papers print the curves only as pictures")
    assert part.level is not None
    name = evidence.runs_of(operand_a(part), f"{where}.a")[0]
    curve = evidence.curve(name, part.metric)
    level, error, meaning = level_of(part.level, part.metric, curve, evidence, where)
    level, error = part.factor * level, part.factor * error
    runs = [(name, curve), (part.level.run or "", ())]
    error = math.hypot(error, level * _scatter(runs, part, evidence))
    crossed = first_at_or_below(curve, level)
    late = first_at_or_below(curve, level - Z * error, shift=Z)
    early = first_at_or_below(curve, level + Z * error, shift=-Z)
    when = "never" if crossed is None else f"after {crossed:,} images"
    text = (
        f"{part.metric} {level:.4g} ({f'{part.factor:g} × ' if part.factor != 1 else ''}{meaning}): "
        f"{evidence.label(name)} {when} of {curve[-1].nimg:,}, claimed within {part.images:,}"
    )
    outcome: Outcome = UNDECIDED
    if late is not None and late <= part.images:
        outcome = "supported"
    elif early is None or early > part.images:
        if early is None and curve[-1].nimg < part.images:
            raise NotMeasuredError(
                f"{evidence.label(name)} has seen {curve[-1].nimg:,} images, fewer than {part.images:,}"
            )
        outcome = "contradicted"
    return Finding(outcome, text, {"level": level, "images": crossed, "claimed": part.images})


def level_of(
    operand: Operand, metric: str, curve: Sequence[Point], evidence: Evidence, where: str
) -> tuple[float, float, str]:
    """Value, standard error and description of a level that curves are compared with."""
    if operand.run is None and operand.where is None:
        number = evidence.quoted(operand, f"{where}.level")
        return number.value, 0.0, f"{number.row_label}, published"
    name, estimate = evidence.estimate(operand, metric, f"{where}.level")
    # The Fréchet distance falls with the number of images: levels of another n are not comparable.
    sizes = {point.num_samples for point in curve} - {None}
    measured_n = evidence.images(operand, metric, f"{where}.level")
    if sizes - {measured_n}:
        listed = ", ".join(f"{size:,}" for size in sorted(filter(None, sizes)))
        raise NotMeasuredError(f"curves use {listed} images per evaluation, the level {measured_n:,}")
    return estimate.mean, estimate.standard_error or 0.0, name


def _scatter(runs: Sequence[tuple[str, Sequence[Point]]], part: Part, evidence: Evidence) -> float:
    """Relative scatter of runs: of a repeated training, and of evaluations whose own noise the curve does not have."""
    found = []
    for name, curve in runs:
        found.append(evidence.repeat_std(name, part.metric))
        if curve and curve[-1].std is None:
            found.append(evidence.noise_of_one(name, part.metric))
    return math.hypot(*found)


def _error(point: Point) -> float:
    return (point.std or 0.0) / math.sqrt(point.trials)


def _previous(curve: tuple[Point, ...], nimg: int | None) -> int | None:
    """Images at the evaluation before a crossing; None without such an evaluation."""
    earlier = [point.nimg for point in curve if nimg is not None and point.nimg < nimg]
    return earlier[-1] if earlier else None


@functools.lru_cache(maxsize=64)
def expected_lowest(n: int) -> float:
    """Expected minimum of ``n`` independent standard normal values (trapezoidal rule)."""
    step = 1e-3
    points = [-8 + step * i for i in range(int(16 / step) + 1)]

    def density(x: float) -> float:
        above = 0.5 * math.erfc(x / math.sqrt(2))
        return n * above ** (n - 1) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    return step * math.fsum(x * density(x) for x in points)


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
