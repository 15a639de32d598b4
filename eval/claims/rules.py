"""The decision rules (see :data:`eval.claims.model.RULES` for what each means)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from eval.agreement import agreement
from eval.claims.evidence import Evidence, NotMeasuredError, bound
from eval.claims.model import UNDECIDED, Finding, Operand, Outcome, Part
from eval.figures.curves import Point, first_at_or_below
from eval.summary import Estimate

Z = 2.6
Z_TRAIN = 2.0


def decide_part(part: Part, evidence: Evidence, where: str) -> Finding:
    """Applies a part's rule; what is not measured is 'not decided here' with the reason."""
    try:
        return _RULES[part.rule](part, evidence, where)
    except NotMeasuredError as reason:
        return Finding(UNDECIDED, f"{reason}")


def _a(part: Part) -> Operand:
    assert part.a is not None
    return part.a


def _b(part: Part) -> Operand:
    assert part.b is not None
    return part.b


def show(estimate: Estimate) -> str:
    """``4.08 ± 0.10`` with digits enough to see the spread."""
    if not estimate.std:
        return f"{estimate.mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(estimate.std)))
    return f"{estimate.mean:.{decimals}f} ± {estimate.std:.{decimals}f}"


def _ordered(gain: float, limit: float) -> Outcome:
    """Supported, contradicted or undecided, for a gain that must exceed a limit of noise."""
    if gain > limit:
        return "supported"
    return "contradicted" if gain < -limit else UNDECIDED


def less(part: Part, evidence: Evidence, where: str) -> Finding:
    """LT: A better than B beyond the evaluation noise."""
    name_a, a = evidence.estimate(_a(part), part.metric, f"{where}.a")
    name_b, b = evidence.estimate(_b(part), part.metric, f"{where}.b")
    if part.equal_budget and not evidence.by_published:
        budgets = [evidence.budget(evidence.runs_of(o, where)[0]) for o in (_a(part), _b(part))]
        if budgets[0] != budgets[1]:
            raise NotMeasuredError(f"budgets differ: {budgets[0]:,} and {budgets[1]:,} training images")
    gain = (b.mean - a.mean) if part.direction == "lower" else (a.mean - b.mean)
    limit = bound(a, b, Z)
    text = (
        f"{part.metric} {show(a)} ({name_a}; {a.trials} trials) against {show(b)} ({name_b}; {b.trials} trials); "
        f"gain {gain:.3g}, noise bound {limit:.2g}"
    )
    return Finding(_ordered(gain, limit), text, _numbers(a, b, gain, limit))


def near(part: Part, evidence: Evidence, where: str) -> Finding:
    """NEAR: A is at most ``factor`` times B."""
    name_a, a = evidence.estimate(_a(part), part.metric, f"{where}.a")
    name_b, b = evidence.estimate(_b(part), part.metric, f"{where}.b")
    scaled = Estimate(part.factor * b.mean, None if b.std is None else part.factor * b.std, b.trials)
    gain, limit = scaled.mean - a.mean, bound(a, scaled, Z)
    text = (
        f"{part.metric} {show(a)} ({name_a}) against {show(b)} ({name_b}); ratio {a.mean / b.mean:.3f}, "
        f"allowed {part.factor:g}"
    )
    return Finding(_ordered(gain, limit), text, _numbers(a, b, gain, limit))


def quoted(part: Part, evidence: Evidence, where: str) -> Finding:
    """LTQ: A better than a number that others published."""
    name, a = evidence.estimate(_a(part), part.metric, f"{where}.a")
    number = evidence.quoted(_b(part), f"{where}.b")
    if a.std is None:
        raise NotMeasuredError("a single trial says nothing about the noise; measure at least two")
    gain = (number.value - a.mean) if part.direction == "lower" else (a.mean - number.value)
    limit = Z * a.std / math.sqrt(a.trials) + number.half_unit + part.slack
    text = (
        f"{part.metric} {show(a)} ({name}; {a.trials} trials) against {number.text} ({number.row_label}, published); "
        f"gain {gain:.3g}, bound {limit:.2g}"
    )
    return Finding(_ordered(gain, limit), text, {"a": a.mean, "b": number.value, "gain": gain, "bound": limit})


def equal(part: Part, evidence: Evidence, where: str) -> Finding:
    """EQ: a published number is reproduced; neither a worse nor a better one is a reproduction."""
    number = evidence.quoted(_a(part), f"{where}.a")
    if evidence.by_published:
        raise NotMeasuredError("needs a measurement")
    name, a = evidence.estimate(_a(part), part.metric, f"{where}.a")
    compared = agreement(a, number)
    word = {"agrees": "agrees", "better": "better than printed", "worse": "worse than printed"}[compared.outcome]
    text = (
        f"{part.metric} {show(a)} ({name}; {a.trials} trials), published {number.text}"
        f"{' ± ' + number.std if number.std else ''}; {word} (Δ {compared.difference:+.3g}, allowed "
        f"{compared.tolerance:.2g})"
    )
    outcome: Outcome = "supported" if compared.outcome == "agrees" else "contradicted"
    return Finding(outcome, text, {"a": a.mean, "published": number.value, "difference": compared.difference})


def trained(part: Part, evidence: Evidence, where: str) -> Finding:
    """TRAIN: A better than B over training seeds; evaluation noise alone never decides it."""
    if evidence.by_published:
        raise NotMeasuredError("the papers report one training run of each")
    sides = []
    for operand, key in ((_a(part), "a"), (_b(part), "b")):
        names = evidence.runs_of(operand, f"{where}.{key}")
        names = [name for name in names if evidence.measurements.has(name, part.metric)]
        if not names:
            raise NotMeasuredError(f"metric '{part.metric}' of {operand} was not measured")
        means = [evidence.measurements.estimate(name, part.metric).mean for name in names]
        sides.append((names, means))
    fewest = min(len(means) for _, means in sides)
    if fewest < part.seeds:
        have = "one training seed" if fewest == 1 else f"{fewest} training seeds"
        raise NotMeasuredError(f"{have}; this claim is about training and needs {part.seeds}")
    if part.equal_budget and len({evidence.budget(name) for names, _ in sides for name in names}) > 1:
        raise NotMeasuredError("budgets differ between the runs")
    a, b = (Estimate.of(means) for _, means in sides)
    gain = (b.mean - a.mean) if part.direction == "lower" else (a.mean - b.mean)
    limit = bound(a, b, Z_TRAIN)
    text = (
        f"{part.metric} {show(a)} ({evidence.label(sides[0][0][0])}; {a.trials} training seeds) against {show(b)} "
        f"({evidence.label(sides[1][0][0])}; {b.trials} training seeds); gain {gain:.3g}, bound {limit:.2g}"
    )
    return Finding(_ordered(gain, limit), text, _numbers(a, b, gain, limit))


def speed(part: Part, evidence: Evidence, where: str) -> Finding:
    """SPEED: images A and B need until their running minimum first falls to a level."""
    if evidence.by_published:
        raise NotMeasuredError("the papers print the curves only as pictures")
    run_a = evidence.runs_of(_a(part), f"{where}.a")[0]
    run_b = evidence.runs_of(_b(part), f"{where}.b")[0]
    curve_a, curve_b = evidence.curve(run_a, part.metric), evidence.curve(run_b, part.metric)
    best_b = min(curve_b, key=lambda point: point.value)
    if part.level is None:
        level, error, meaning = best_b.value, _error(best_b), "its lowest value"
    elif part.level.run is None and part.level.where is None:
        number = evidence.quoted(part.level, f"{where}.level")
        level, error, meaning = number.value, 0.0, f"{number.row_label}, published"
    else:
        name, estimate = evidence.estimate(part.level, part.metric, f"{where}.level")
        level, error, meaning = estimate.mean, estimate.standard_error or 0.0, name
        # The Fréchet distance falls with the number of images: levels of another n are not comparable.
        sizes = {point.num_samples for point in curve_a + curve_b} - {None}
        measured_n = evidence.images(part.level, part.metric, f"{where}.level")
        if sizes - {measured_n}:
            listed = ", ".join(f"{size:,}" for size in sorted(filter(None, sizes)))
            raise NotMeasuredError(f"curves use {listed} images per evaluation, the level {measured_n:,}")
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


def _error(point: Point) -> float:
    return (point.std or 0.0) / math.sqrt(point.trials)


def _previous(curve: tuple[Point, ...], nimg: int | None) -> int | None:
    """The evaluation before the crossing: the crossing itself lies after it."""
    earlier = [point.nimg for point in curve if nimg is not None and point.nimg < nimg]
    return earlier[-1] if earlier else None


def ratio(part: Part, evidence: Evidence, where: str) -> Finding:
    """RATIO: the ratio of a metric or of a logged quantity lies in a range."""
    if part.quantity is None:
        name_a, a = evidence.estimate(_a(part), part.metric, f"{where}.a")
        name_b, b = evidence.estimate(_b(part), part.metric, f"{where}.b")
        top, bottom, what = a.mean, b.mean, part.metric
    elif evidence.by_published:
        numbers = [evidence.quoted(o, where) for o in (_a(part), _b(part)) if o.published]
        if len(numbers) < 2:
            raise NotMeasuredError("no published numbers for both")
        (top, bottom), what = (number.value for number in numbers), part.quantity
        name_a, name_b = numbers[0].row_label, numbers[1].row_label
    else:
        run_a, run_b = (evidence.runs_of(o, where)[0] for o in (_a(part), _b(part)))
        top, bottom = _quantity(evidence, run_a, part.quantity), _quantity(evidence, run_b, part.quantity)
        name_a, name_b, what = evidence.label(run_a), evidence.label(run_b), part.quantity
    value = top / bottom
    claimed = f"{part.low:g} to {part.high:g}" if part.low else f"at most {part.high:g}"
    claimed = claimed if math.isfinite(part.high) else f"at least {part.low:g}"
    text = f"{what} {top:.4g} ({name_a}) against {bottom:.4g} ({name_b}); ratio {value:.3f}, claimed {claimed}"
    outcome: Outcome = "supported" if part.low <= value <= part.high else "contradicted"
    return Finding(outcome, text, {"a": top, "b": bottom, "ratio": value})


def _quantity(evidence: Evidence, run: str, quantity: str) -> float:
    """Median over the ticks of a training log, the first left out because it includes the start-up."""
    ticks = evidence.ticks(run)
    ticks = ticks[1:] or ticks
    key = "img_per_s" if quantity == "seconds_per_kimg" else quantity
    values = [float(tick[key]) for tick in ticks if tick.get(key) is not None]
    if not values:
        raise NotMeasuredError(f"the training log of run '{run}' has no '{key}'")
    median = statistics.median(values)
    return 1000 / median if quantity == "seconds_per_kimg" else median


def none(part: Part, evidence: Evidence, where: str) -> Finding:
    """NONE: no rule applies."""
    return Finding(UNDECIDED, part.label or "no rule applies")


def _numbers(a: Estimate, b: Estimate, gain: float, limit: float) -> dict[str, float | int | None]:
    return {
        "a": a.mean, "a_std": a.std, "a_n": a.trials, "b": b.mean, "b_std": b.std, "b_n": b.trials,
        "gain": gain, "bound": limit,
    }  # fmt: skip


_RULES: dict[str, Callable[[Part, Evidence, str], Finding]] = {
    "EQ": equal,
    "LT": less,
    "LTQ": quoted,
    "TRAIN": trained,
    "SPEED": speed,
    "RATIO": ratio,
    "NEAR": near,
    "NONE": none,
}
