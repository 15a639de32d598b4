"""The decision rules of claims (:data:`eval.claims.model.RULES` describes each)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from eval.claims.barriers import barriers
from eval.claims.cost import cost
from eval.claims.evidence import Evidence, NotMeasuredError, bound, same_budget
from eval.claims.facts import FACTS
from eval.claims.layers import layers
from eval.claims.model import UNDECIDED, Finding, Operand, Outcome, Part
from eval.claims.numbers import Z, numbers_of, operand_a, operand_b, ordered, show, within
from eval.claims.seeds import trained
from eval.claims.training import diverges, reaches, shape, speed, spread, stable, trend
from eval.results.agreement import agreement_of
from eval.results.summary import Estimate
from sida.analytic.numbers import NUMBERS

MEDIAN = 1.2533


def decide_part(part: Part, evidence: Evidence, where: str) -> Finding:
    """Applies the rule of a part; without a measurement the outcome is 'not decided here' with the reason."""
    try:
        evidence.require_same_reference(part)
        return _RULES[part.rule](part, evidence, where)
    except NotMeasuredError as reason:
        return Finding(UNDECIDED, f"{reason}")
    except ZeroDivisionError:
        return Finding(UNDECIDED, "there is no ratio to a value of 0")


def less(part: Part, evidence: Evidence, where: str) -> Finding:
    """LT: A is better than B beyond the evaluation noise."""
    (name_a, a), (name_b, b) = _both(part, evidence, where)
    if part.equal_budget and not evidence.by_published:
        budgets = [evidence.budget(evidence.runs_of(o, where)[0]) for o in (operand_a(part), operand_b(part))]
        if not same_budget(budgets):
            raise NotMeasuredError(f"budgets differ: {budgets[0]:,} and {budgets[1]:,} training images")
    gain = (b.mean - a.mean) if part.direction == "lower" else (a.mean - b.mean)
    limit = bound(a, b, Z)
    text = (
        f"{part.metric} {show(a)} ({name_a}; {a.trials} trials) against {show(b)} ({name_b}; {b.trials} trials); "
        f"gain {gain:.3g}, noise bound {limit:.2g}"
    )
    return Finding(ordered(gain, limit), text, numbers_of(a, b, gain, limit))


def near(part: Part, evidence: Evidence, where: str) -> Finding:
    """NEAR: A is at most ``factor`` times B."""
    (name_a, a), (name_b, b) = _both(part, evidence, where)
    scaled = _scaled(b, part.factor)
    gain, limit = scaled.mean - a.mean, bound(a, scaled, Z)
    text = (
        f"{part.metric} {show(a)} ({name_a}) against {show(b)} ({name_b}); ratio {a.mean / b.mean:.3f}, "
        f"allowed {part.factor:g}"
    )
    return Finding(ordered(gain, limit), text, numbers_of(a, b, gain, limit))


def quoted(part: Part, evidence: Evidence, where: str) -> Finding:
    """LTQ: A is better than a number that others published."""
    name, a = evidence.estimate(operand_a(part), part.metric, f"{where}.a")
    number = evidence.quoted(operand_b(part), f"{where}.b")
    if a.std is None:
        raise NotMeasuredError("a single trial says nothing about the noise; measure at least two")
    gain = (number.value - a.mean) if part.direction == "lower" else (a.mean - number.value)
    limit = Z * a.std / math.sqrt(a.trials) + number.half_unit + part.slack
    text = (
        f"{part.metric} {show(a)} ({name}; {a.trials} trials) against {number.text} ({number.row_label}, published); "
        f"gain {gain:.3g}, bound {limit:.2g}"
    )
    return Finding(ordered(gain, limit), text, {"a": a.mean, "b": number.value, "gain": gain, "bound": limit})


def equal(part: Part, evidence: Evidence, where: str) -> Finding:
    """EQ: a published number is reproduced; neither a worse nor a better one is a reproduction."""
    number = evidence.quoted(operand_a(part), f"{where}.a")
    if evidence.by_published:
        raise NotMeasuredError("needs a measurement")
    name, a = evidence.estimate(operand_a(part), part.metric, f"{where}.a")
    lines = evidence.measurements.lines(evidence.runs_of(operand_a(part), where)[0], part.metric)
    compared = agreement_of(a, lines, number)
    if isinstance(compared, str):
        raise NotMeasuredError(f"not compared: {compared}")
    word = {"agrees": "agrees", "better": "better than printed", "worse": "worse than printed"}[compared.outcome]
    text = (
        f"{part.metric} {show(a)} ({name}; {a.trials} trials), published {number.text}"
        f"{' ± ' + number.std if number.std else ''}; {word} (Δ {compared.difference:+.3g}, allowed "
        f"{compared.tolerance:.2g})"
    )
    outcome: Outcome = "supported" if compared.outcome == "agrees" else "contradicted"
    return Finding(outcome, text, {"a": a.mean, "published": number.value, "difference": compared.difference})


def ratio(part: Part, evidence: Evidence, where: str) -> Finding:
    """RATIO: the ratio of a metric or of a logged quantity lies in a range, beyond its uncertainty."""
    name_a, a = _side(operand_a(part), part, evidence, f"{where}.a")
    name_b, b = _side(operand_b(part), part, evidence, f"{where}.b")
    value = a.mean / b.mean
    # To first order in the errors of both sides; A itself may be 0.
    limit = bound(_scaled(a, 1 / b.mean), _scaled(b, value / b.mean), Z)
    what = "" if part.a is not None and part.a.value is not None else part.quantity or part.metric
    claimed = f"{part.low:g} to {part.high:g}" if part.low else f"at most {part.high:g}"
    claimed = claimed if math.isfinite(part.high) else f"at least {part.low:g}"
    text = (
        f"{what} {show(a)} ({name_a}) against {show(b)} ({name_b}); ratio {value:.3f} ± {limit:.2g}, claimed {claimed}"
    )
    return Finding(
        within(value - limit, value + limit, part),
        text.strip(),
        {"a": a.mean, "b": b.mean, "ratio": value, "bound": limit},
    )


def _side(operand: Operand, part: Part, evidence: Evidence, where: str) -> tuple[str, Estimate]:
    """Name and value of one side of a ratio: a stated number, one run over trials, or several runs over seeds."""
    if operand.value is not None:
        return operand.label, Estimate(operand.value, 0.0, 1)
    quoted = operand.published is not None and (evidence.by_published or operand.run is None)
    if quoted and part.quantity == "nfe":
        number = evidence.quoted(operand, where)
        return f"{number.row_label}, published", Estimate(float(number.nfe), 0.0, 1)
    if quoted or evidence.by_published:
        return evidence.estimate(operand, part.metric, where)
    logged = part.quantity is not None and part.quantity != "nfe"
    names = evidence.logged(operand) if logged else evidence.runs_of(operand, where)
    if operand.where is not None and len(names) < part.seeds:
        raise NotMeasuredError(f"{len(names)} training seeds of {operand}; this ratio needs {part.seeds}")
    if part.quantity is not None:
        evidence.require_gpus(names, part.gpus)
        found = [_quantity(evidence, name, part.quantity) for name in names]
        pooled = Estimate.of([estimate.mean for estimate in found]) if len(names) > 1 else found[0]
    elif len(names) > 1:
        pooled = Estimate.of([evidence.value(operand, name, part.metric) for name in names])
    else:
        return evidence.estimate(operand, part.metric, where)
    # A training whose generator is not measured has only the beginning of a log.
    ticks = logged and names[0] not in evidence.measurements.runs
    begun = f"; from {max(1, len(evidence.ticks(names[0])) - 1)} ticks" if ticks else ""
    return evidence.label(names[0]) + begun + (f"; {len(names)} training seeds" if len(names) > 1 else ""), pooled


def _both(part: Part, evidence: Evidence, where: str) -> tuple[tuple[str, Estimate], tuple[str, Estimate]]:
    """Name and mean ± std of both sides of a part."""
    first = evidence.estimate(operand_a(part), part.metric, f"{where}.a")
    return first, evidence.estimate(operand_b(part), part.metric, f"{where}.b")


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    std = None if estimate.std is None else abs(factor) * estimate.std
    return Estimate(factor * estimate.mean, std, estimate.trials)


def _quantity(evidence: Evidence, run: str, quantity: str) -> Estimate:
    """Median and spread of a logged quantity over the ticks without the first, which includes the start-up.

    For reserved memory: the maximum, without a spread.
    """
    if quantity == "nfe":
        return Estimate(float(evidence.measurements.nfe(run) or 1), 0.0, 1)
    ticks = evidence.ticks(run)
    ticks = ticks[1:] or ticks
    key = {"seconds_per_kimg": "img_per_s", "memory_reserved_gb": "memory_reserved_mb"}.get(quantity, quantity)
    values = [float(tick[key]) for tick in ticks if tick.get(key)]
    if not values:
        raise NotMeasuredError(f"the training log of run '{run}' has no '{key}'")
    if key == "memory_reserved_mb":
        # Reserved memory only grows; Table 8 prints the maximum, in units of 1024 MiB.
        return Estimate(max(values) / (1024 if quantity == "memory_reserved_gb" else 1), 0.0, len(values))
    if quantity == "seconds_per_kimg":
        values = [1000 / value for value in values]
    # The median of n values scatters 1.25 times as much as their mean.
    spread = MEDIAN * statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.median(values), spread, len(values))


def fact(part: Part, evidence: Evidence, where: str) -> Finding:
    """FACT: a computed number lies in the given range."""
    value, text = FACTS[part.fact]()
    outcome: Outcome = "supported" if part.low <= value <= part.high else "contradicted"
    return Finding(outcome, f"{text}: {value:.4g}, claimed {part.low:g} to {part.high:g}", {"value": value})


def analytic(part: Part, evidence: Evidence, where: str) -> Finding:
    """ANALYTIC: a number of the analytic study, or its ratio to another, lies in the given range."""
    texts, values = [], []
    for name in filter(None, (part.number, part.than)):
        value = evidence.analytic(name)
        if value is None:
            raise NotMeasuredError(f"the analytic study has no {NUMBERS[name]} with its settings")
        texts.append(f"{NUMBERS[name]}: {value:.4g}")
        values.append(value)
    found = values[0] / values[1] if part.than else values[0]
    outcome: Outcome = "supported" if part.low <= found <= part.high else "contradicted"
    text = "; ".join(texts) + (f"; ratio {found:.4g}" if part.than else "")
    claimed = f"{part.low:g} to {part.high:g}" if math.isfinite(part.high) else f"at least {part.low:g}"
    return Finding(outcome, f"{text}, claimed {claimed}", {"value": found})


def none(part: Part, evidence: Evidence, where: str) -> Finding:
    """NONE: no rule applies."""
    return Finding(UNDECIDED, part.label or "no rule applies")


_RULES: dict[str, Callable[[Part, Evidence, str], Finding]] = {
    "COST": cost,
    "EQ": equal,
    "FACT": fact,
    "ANALYTIC": analytic,
    "BARRIER": barriers,
    "LAYERS": layers,
    "LT": less,
    "LTQ": quoted,
    "TRAIN": trained,
    "SPEED": speed,
    "REACHES": reaches,
    "DIVERGES": diverges,
    "SHAPE": shape,
    "STABLE": stable,
    "TREND": trend,
    "SPREAD": spread,
    "RATIO": ratio,
    "NEAR": near,
    "NONE": none,
}
