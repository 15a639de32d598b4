"""The decision rules of claims (:data:`eval.claims.model.RULES` describes each)."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eval.claims.analyses import fact
from eval.claims.curves import cost, diverges, reaches, shape, speed, stable
from eval.claims.evidence import (
    TRIALS,
    Evidence,
    NotMeasuredError,
    by_teacher,
    decide_gain,
    decide_range,
    interval_over,
    operand_a,
    operand_b,
    same_budget,
    seeds_of,
    show,
    sides_of,
    trained,
)
from eval.claims.model import UNDECIDED, Finding, Operand, Outcome, Part
from eval.effects.contrast import CONFIDENCE, Interval, difference, interval_of, mean_interval, pooled_std
from eval.results.published import agreement_of
from eval.results.summary import Estimate
from sida.errors import UserError

MEDIAN = 1.2533
#: Words for the operands of a part.
_SIDES = {"a": "A", "b": "B", "level": "the level"}


def decide_part(part: Part, evidence: Evidence, where: str) -> Finding:
    """Applies the rule of a part; without a measurement the outcome is 'not decided here' with the reason."""
    try:
        # Rule EQ compares with the published number of its operand by itself, and facts are no measurements.
        compared = evidence.identities(part, where) if part.rule not in ("EQ", "FACT", "NONE") else {}
        finding = _RULES[part.rule](part, evidence, where)
    except NotMeasuredError as reason:
        return Finding(UNDECIDED, f"{reason}")
    except ZeroDivisionError:
        return Finding(UNDECIDED, "there is no ratio to a value of 0")
    if not part.across:
        return finding
    named = "; ".join(f"{_SIDES[key]} under {identity}" for key, identity in compared.items())
    return dataclasses.replace(finding, evidence=f"{finding.evidence}; {named} ({part.across})")


def less(part: Part, evidence: Evidence, where: str) -> Finding:
    """LT: A is better than B beyond the evaluation noise and the scatter of a repeated training."""
    (name_a, a), (name_b, b) = _both(part, evidence, where)
    if part.equal_budget and not evidence.by_published:
        budgets = [evidence.budget(evidence.runs_of(o, where)[0]) for o in (operand_a(part), operand_b(part))]
        if not same_budget(budgets):
            raise NotMeasuredError(f"budgets differ: {budgets[0]:,} and {budgets[1]:,} training images")
    gain = (b.mean - a.mean) if part.direction == "lower" else (a.mean - b.mean)
    found = decide_gain(interval_of(gain, _noise(part, a, b, evidence, where), TRIALS))
    text = (
        f"{part.metric} {show(a)} ({name_a}; {a.trials} trials) against {show(b)} ({name_b}; {b.trials} trials); "
        f"gain {gain:.3g}, {found.text}"
    )
    return Finding(found.outcome, text, sides_of(a, b) | {"gain": gain} | found.numbers)


def near(part: Part, evidence: Evidence, where: str) -> Finding:
    """NEAR: A is at most ``factor`` times B."""
    (name_a, a), (name_b, b) = _both(part, evidence, where)
    gain = part.factor * b.mean - a.mean
    found = decide_gain(interval_of(gain, _noise(part, a, b, evidence, where, part.factor), TRIALS))
    text = (
        f"{part.metric} {show(a)} ({name_a}) against {show(b)} ({name_b}); ratio {a.mean / b.mean:.3f}, "
        f"allowed {part.factor:g}; gain {gain:.3g}, {found.text}"
    )
    return Finding(found.outcome, text, sides_of(a, b) | {"gain": gain} | found.numbers)


def quoted(part: Part, evidence: Evidence, where: str) -> Finding:
    """LTQ: A is better than a number that others published."""
    name, a = evidence.estimate(operand_a(part), part.metric, f"{where}.a")
    number = evidence.quoted(operand_b(part), f"{where}.b")
    gain = (number.value - a.mean) if part.direction == "lower" else (a.mean - number.value)
    noise = evidence.noise(operand_a(part), part.metric, a, f"{where}.a")
    # Rounding and the choice of the lowest may each have moved the number by as much as they can.
    allowed = number.half_unit + part.slack
    sure = math.copysign(max(0.0, abs(gain) - allowed), gain)
    found = decide_gain(interval_of(sure, noise, TRIALS))
    text = (
        f"{part.metric} {show(a)} ({name}; {a.trials} trials) against {number.text} ({number.row_label}, published); "
        f"gain {gain:.3g}, after {allowed:.2g} for rounding {found.text}"
    )
    return Finding(found.outcome, text, {"a": a.mean, "b": number.value, "gain": gain} | found.numbers)


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
    try:
        found = decide_range(_ratio(a, b, value), part.low, part.high)
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None
    what = "" if part.a is not None and part.a.value is not None else part.quantity or part.metric
    claimed = f"{part.low:g} to {part.high:g}" if part.low else f"at most {part.high:g}"
    claimed = claimed if math.isfinite(part.high) else f"at least {part.low:g}"
    text = (
        f"{what} {show(a.estimate)} ({name_a}) against {show(b.estimate)} ({name_b}); ratio {value:.3f}, "
        f"{found.text}, claimed {claimed}"
    )
    return Finding(found.outcome, text.strip(), {"a": a.mean, "b": b.mean, "ratio": value} | found.numbers)


@dataclass(frozen=True)
class _Side:
    """A side of a ratio: its mean, and its scatter by teacher over training seeds, or as variances with their df."""

    estimate: Estimate
    blocks: Mapping[str, Sequence[float]] | None = None
    noise: Sequence[tuple[float, float]] = ()

    @property
    def mean(self) -> float:
        """Mean of the teachers' means."""
        return statistics.fmean(map(statistics.fmean, self.blocks.values())) if self.blocks else self.estimate.mean

    def variances(self, factor: float) -> list[tuple[float, float]]:
        """Variances of ``factor`` times the mean, with their degrees of freedom."""
        noise = self.noise
        if self.blocks:
            found = mean_interval(self.blocks)
            noise = [(found.standard_error**2, found.df)]
        return [(factor**2 * variance, df) for variance, df in noise]


def _ratio(a: _Side, b: _Side, value: float) -> Interval:
    """A ratio's interval, to first order in the errors of both sides; A itself may be 0."""
    if a.blocks and b.blocks:
        scaled = {teacher: [value * one for one in values] for teacher, values in b.blocks.items()}
        return difference(a.blocks, scaled).moved(1 / b.mean, value)
    confidence = CONFIDENCE if a.blocks or b.blocks else TRIALS
    return interval_of(value, a.variances(1 / b.mean) + b.variances(value / b.mean), confidence)


def _side(operand: Operand, part: Part, evidence: Evidence, where: str) -> tuple[str, _Side]:
    """Name and scatter of a ratio's side: a stated number, one run over trials or ticks, or several runs over seeds."""
    if operand.value is not None:
        return operand.label, _Side(Estimate(operand.value, 0.0, 1), noise=[(0.0, 1)])
    quoted = operand.published is not None and (evidence.by_published or operand.run is None)
    if quoted and part.quantity == "nfe":
        number = evidence.quoted(operand, where)
        return f"{number.row_label}, published", _Side(Estimate(float(number.nfe), 0.0, 1), noise=[(0.0, 1)])
    logged = part.quantity is not None and part.quantity != "nfe"
    names = [] if quoted or evidence.by_published else evidence.logged(operand) if logged else None
    names = evidence.runs_of(operand, where) if names is None else names
    if (part.quantity is None and len(names) < 2) or not names:
        name, found = evidence.estimate(operand, part.metric, where)
        return name, _Side(found, noise=evidence.noise(operand, part.metric, found, where))
    if operand.where is not None and len(names) < part.seeds:
        raise NotMeasuredError(f"{len(names)} training seeds of {operand}; this ratio needs {part.seeds}")
    values = {}
    if part.quantity is not None:
        evidence.require_gpus(names, part.gpus)
    for name in names:
        values[name] = (
            _quantity(evidence, name, part.quantity)
            if part.quantity is not None
            else Estimate(evidence.value(operand, name, part.metric), None, 1)
        )
    # A training whose generator is not measured has only the beginning of a log.
    ticks = logged and names[0] not in evidence.measurements.runs
    begun = f"; from {max(1, len(evidence.ticks(names[0])) - 1)} ticks" if ticks else ""
    if len(names) == 1:
        found = values[names[0]]
        if found.std is None:
            raise NotMeasuredError("a single record says nothing about the noise")
        return evidence.label(names[0]) + begun, _Side(found, noise=[(found.std**2 / found.trials, found.trials - 1)])
    pooled = Estimate.of([found.mean for found in values.values()])
    blocks = by_teacher(names, lambda name: values[name].mean, evidence)
    return f"{evidence.label(names[0])}{begun}; {len(names)} training seeds", _Side(pooled, blocks)


def _both(part: Part, evidence: Evidence, where: str) -> tuple[tuple[str, Estimate], tuple[str, Estimate]]:
    """Name and mean ± std of both sides of a part."""
    first = evidence.estimate(operand_a(part), part.metric, f"{where}.a")
    return first, evidence.estimate(operand_b(part), part.metric, f"{where}.b")


def _noise(
    part: Part, a: Estimate, b: Estimate, evidence: Evidence, where: str, factor: float = 1.0
) -> list[tuple[float, float]]:
    """Variances of A and of ``factor`` times B, with their degrees of freedom."""
    scaled = evidence.noise(operand_b(part), part.metric, b, f"{where}.b")
    return [
        *evidence.noise(operand_a(part), part.metric, a, f"{where}.a"),
        *((factor**2 * variance, df) for variance, df in scaled),
    ]


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


def trend(part: Part, evidence: Evidence, where: str) -> Finding:
    """TREND: a metric rises (or falls) with a column of the sheet, by least squares for each training seed."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    by_seed: dict[tuple[str, int], dict[float, str]] = {}
    for name in names:
        run = evidence.runs[name]
        place = (evidence.teacher(name), run.seed or 0)
        by_seed.setdefault(place, {})[float(getattr(run, part.column))] = name
    common = sorted(set.intersection(*(set(found) for found in by_seed.values())))
    if len(by_seed) < part.seeds or len(common) < 3:
        raise NotMeasuredError(f"{len(by_seed)} seeds with {len(common)} common values of {part.column}")
    slopes = {}
    for runs in by_seed.values():
        values = [evidence.value(operand_a(part), runs[x], part.metric) for x in common]
        slopes[runs[common[0]]] = statistics.linear_regression(common, values).slope
    slope = interval_over(list(slopes), slopes.__getitem__, evidence)
    found = decide_gain(slope.moved(1 if part.direction == "higher" else -1))
    plain = decide_gain(slope)
    text = (
        f"{part.metric} of {evidence.label(names[0]).partition(',')[0]} over {part.column} {common[0]:g} to "
        f"{common[-1]:g}: slope {show(Estimate.of(list(slopes.values())))} over {len(by_seed)} training seeds, "
        f"{plain.text}"
    )
    return Finding(found.outcome, text, {"slope": slope.value, "seeds": len(by_seed)} | plain.numbers)


def law(part: Part, evidence: Evidence, where: str) -> Finding:
    """LAW: a metric is a power of the teacher's, by least squares of logarithms for each training seed."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    teachers = {run.teacher: name for name, run in evidence.runs.items() if run.method == "teacher"}
    by_seed: dict[int, dict[str, str]] = {}
    for name in names:
        by_seed.setdefault(evidence.runs[name].seed or 0, {})[evidence.teacher(name)] = name
    common = sorted(set.intersection(*(set(found) for found in by_seed.values())) & {*teachers})
    if len(by_seed) < part.seeds or len(common) < 3:
        raise NotMeasuredError(f"{len(by_seed)} training seeds with {len(common)} common measured teachers")
    level = {name: math.log(evidence.value(Operand(run=name), name, part.metric)) for name in teachers.values()}
    places = [level[teachers[teacher]] for teacher in common]
    if min(places) == max(places):
        raise NotMeasuredError(f"teachers with equal {part.metric}")
    exponents = []
    for runs in by_seed.values():
        heights = [math.log(evidence.value(operand_a(part), runs[teacher], part.metric)) for teacher in common]
        exponents.append(statistics.linear_regression(places, heights).slope)
    exponent = mean_interval({"": exponents})
    found = decide_range(exponent, part.low, part.high)
    text = (
        f"{part.metric} of {evidence.label(names[0]).partition(',')[0]} as a power of its teacher's over "
        f"{len(common)} teachers: exponent {show(Estimate.of(exponents))} over {len(by_seed)} training seeds, "
        f"{found.text}, claimed {part.low:g} to {part.high:g}"
    )
    return Finding(found.outcome, text, {"exponent": exponent.value, "seeds": len(by_seed)} | found.numbers)


def spread(part: Part, evidence: Evidence, where: str) -> Finding:
    """SPREAD: (largest − smallest) / mean over a column's values is at most ``factor`` times B's."""
    sides: list[tuple[float, float, int]] = []
    for operand, key in ((operand_a(part), "a"), (operand_b(part), "b")):
        groups: dict[float, list[float]] = {}
        for name in seeds_of(operand, part, evidence, f"{where}.{key}"):
            place = float(getattr(evidence.runs[name], part.column))
            groups.setdefault(place, []).append(evidence.value(operand, name, part.metric))
        if len(groups) < 2 or min(map(len, groups.values())) < part.seeds:
            raise NotMeasuredError(f"fewer than {part.seeds} training seeds for each {part.column} of {operand}")
        cells = sorted(groups.values(), key=statistics.fmean)
        middle = statistics.fmean(map(statistics.fmean, cells))
        std, df = pooled_std(cells)
        width = statistics.fmean(cells[-1]) - statistics.fmean(cells[0])
        sides.append((width / middle, (std / middle) ** 2 * (1 / len(cells[0]) + 1 / len(cells[-1])), df))
    (a, noise_a, df_a), (b, noise_b, df_b) = sides
    gain = interval_of(part.factor * b - a, [(noise_a, df_a), (part.factor**2 * noise_b, df_b)])
    found = decide_gain(gain)
    text = (
        f"relative spread of {part.metric} over {part.column}: {a:.3f} against {b:.3f}, claimed at most "
        f"{part.factor:g} times; margin {gain.value:.3g}, {found.text}"
    )
    return Finding(found.outcome, text, {"a": a, "b": b, "gain": gain.value} | found.numbers)


def none(part: Part, evidence: Evidence, where: str) -> Finding:
    """NONE: no rule applies."""
    return Finding(UNDECIDED, part.label or "no rule applies")


_RULES: dict[str, Callable[[Part, Evidence, str], Finding]] = {
    "COST": cost,
    "EQ": equal,
    "FACT": fact,
    "LT": less,
    "LTQ": quoted,
    "TRAIN": trained,
    "SPEED": speed,
    "REACHES": reaches,
    "DIVERGES": diverges,
    "SHAPE": shape,
    "STABLE": stable,
    "TREND": trend,
    "LAW": law,
    "SPREAD": spread,
    "RATIO": ratio,
    "NEAR": near,
    "NONE": none,
}
