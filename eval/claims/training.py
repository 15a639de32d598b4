"""Rules about training that read the curves of evaluations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate

from eval.claims.evidence import Evidence, NotMeasuredError
from eval.claims.model import UNDECIDED, Finding, Operand, Outcome, Part
from eval.claims.numbers import Z, of_most, operand_a, operand_b, ordered, show
from eval.claims.seeds import over_seeds, seeds_of
from eval.results.summary import Estimate
from eval.results.training_logs import Point, first_at_or_below

Z_TRAIN = 2.0


def diverges(part: Part, evidence: Evidence, where: str) -> Finding:
    """DIVERGES: at the end of its curve a run lies far above the lowest value it had reached."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    limit, against = math.inf, ""
    if part.b is not None:
        _, others = over_seeds(part.b, seeds_of(part.b, part, evidence, f"{where}.b"), part, evidence)
        limit = part.high * others.mean
        against = f", or above {part.high:g} × {others.mean:.4g}"
    curves = {name: _values(evidence, name, part.metric) for name in names}
    gone = [
        name
        for name, values in curves.items()
        if not math.isfinite(values[-1]) or values[-1] > min(part.factor * min(values), limit)
    ]
    listed = "; ".join(f"lowest {min(values):.4g}, end {values[-1]:.4g}" for values in curves.values())
    text = (
        f"{part.metric} of {evidence.label(names[0])}: {len(gone)} of {len(names)} seeds end above {part.factor:g} × "
        f"their lowest value{against} ({listed})"
    )
    return Finding(of_most(len(gone), len(names)), text, {"diverged": len(gone), "seeds": len(names)})


def stable(part: Part, evidence: Evidence, where: str) -> Finding:
    """STABLE: no evaluation lies far above the lowest so far, and the curve falls below its start and stays there."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    curves = {name: evidence.curve(name, part.metric, finite=False) for name in names}
    rises = [_rise([point.value for point in points]) for points in curves.values()]
    steady = max(rises) <= part.factor
    text = (
        f"{part.metric} of {evidence.label(names[0])}; {len(names)} training seeds: rises to at most {max(rises):.2f} "
        f"× the lowest value so far (allowed {part.factor:g})"
    )
    numbers = {"rise": max(rises), "seeds": len(names)}
    if not steady:
        return Finding("contradicted", text, numbers)
    late = sorted(set.intersection(*({p.nimg for p in points[1:]} for points in curves.values())))
    late = [nimg for nimg in late if nimg >= part.images] if part.images else late[-1:]
    if not late:
        raise NotMeasuredError(f"no evaluation that all seeds share from {part.images:,} images on")
    gains = []
    for nimg in late:
        falls = [points[0].value - next(p.value for p in points if p.nimg == nimg) for points in curves.values()]
        gain = Estimate.of(falls)
        gains.append((gain.mean, Z_TRAIN * (gain.standard_error or 0.0)))
    gain_mean, limit = min(gains, key=lambda pair: pair[0] - pair[1])
    when = f"from {part.images:,} images on at least" if part.images else "at the end"
    text += f"; below its start {when} by {gain_mean:.3g}, bound {limit:.2g}"
    return Finding(ordered(gain_mean, limit), text, numbers | {"gain": gain_mean, "bound": limit})


def _values(evidence: Evidence, run: str, metric: str) -> list[float]:
    return [point.value for point in evidence.curve(run, metric, finite=False)]


def _rise(values: Sequence[float]) -> float:
    """Largest ratio of a value to the lowest before it."""
    lowest = list(accumulate(values, min))
    # Division cannot tell a rise above infinity.
    return max(
        (later / least if math.isfinite(least) else math.inf for least, later in zip(lowest, values[1:])), default=1.0
    )


def trend(part: Part, evidence: Evidence, where: str) -> Finding:
    """TREND: a metric rises (or falls) with a column of the sheet, by least squares for each training seed."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    by_seed: dict[int, dict[float, float]] = {}
    for name in names:
        run = evidence.runs[name]
        place = getattr(run, part.column)
        by_seed.setdefault(run.seed or 0, {})[float(place)] = evidence.value(operand_a(part), name, part.metric)
    common = sorted(set.intersection(*(set(values) for values in by_seed.values())))
    if len(by_seed) < part.seeds or len(common) < 3:
        raise NotMeasuredError(f"{len(by_seed)} seeds with {len(common)} common values of {part.column}")
    slopes = Estimate.of(
        [statistics.linear_regression(common, [values[x] for x in common]).slope for values in by_seed.values()]
    )
    gain, limit = slopes.mean, Z_TRAIN * (slopes.standard_error or 0.0)
    gain = gain if part.direction == "higher" else -gain
    text = (
        f"{part.metric} of {evidence.label(names[0]).partition(',')[0]} over {part.column} {common[0]:g} to "
        f"{common[-1]:g}: slope {show(slopes)} over {len(by_seed)} training seeds, bound {limit:.2g}"
    )
    return Finding(ordered(gain, limit), text, {"slope": slopes.mean, "bound": limit, "seeds": len(by_seed)})


def shape(part: Part, evidence: Evidence, where: str) -> Finding:
    """SHAPE: until its lowest value a curve is a straight line of ln metric against images, or against ln images."""
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    other = "power" if part.form == "exponential" else "exponential"
    fits = []
    for name in names:
        points = [point for point in evidence.curve(name, part.metric) if point.nimg > 0 and point.value > 0]
        lowest = min(range(len(points)), key=lambda i: points[i].value, default=0)
        falling = points[: lowest + 1]
        if len(falling) < 4:
            raise NotMeasuredError(f"{evidence.label(name)}: fewer than four evaluations until the lowest")
        heights = [math.log(point.value) for point in falling]
        places = {"exponential": [float(p.nimg) for p in falling], "power": [math.log(p.nimg) for p in falling]}
        fits.append({form: statistics.correlation(x, heights) ** 2 for form, x in places.items()})
    holds = [fit[part.form] >= part.low and fit[part.form] > fit[other] for fit in fits]
    means = {form: statistics.fmean(fit[form] for fit in fits) for form in fits[0]}
    listed = "; ".join(f"{fit['exponential']:.3f}, {fit['power']:.3f}" for fit in fits)
    text = (
        f"{part.metric} of {evidence.label(names[0])}: {sum(holds)} of {len(names)} seeds fall as claimed "
        f"({part.form}, R² at least {part.low:g}); R² of exponential, power: {listed}"
    )
    return Finding(of_most(sum(holds), len(names)), text, {"holds": sum(holds), "seeds": len(names), **means})


def spread(part: Part, evidence: Evidence, where: str) -> Finding:
    """SPREAD: (largest − smallest) / mean over a column's values is at most ``factor`` times B's."""
    sides = []
    for operand, key in ((operand_a(part), "a"), (operand_b(part), "b")):
        groups: dict[float, list[float]] = {}
        for name in seeds_of(operand, part, evidence, f"{where}.{key}"):
            place = float(getattr(evidence.runs[name], part.column))
            groups.setdefault(place, []).append(evidence.value(operand, name, part.metric))
        if len(groups) < 2 or min(map(len, groups.values())) < part.seeds:
            raise NotMeasuredError(f"fewer than {part.seeds} training seeds for each {part.column} of {operand}")
        means = sorted((Estimate.of(values) for values in groups.values()), key=lambda e: e.mean)
        middle = statistics.fmean(e.mean for e in means)
        error = math.hypot(means[0].standard_error or 0.0, means[-1].standard_error or 0.0)
        sides.append(((means[-1].mean - means[0].mean) / middle, error / middle))
    (a, error_a), (b, error_b) = sides
    gain, limit = part.factor * b - a, Z_TRAIN * math.hypot(error_a, part.factor * error_b)
    text = (
        f"relative spread of {part.metric} over {part.column}: {a:.3f} against {b:.3f}, claimed at most "
        f"{part.factor:g} times; margin {gain:.3g}, bound {limit:.2g}"
    )
    return Finding(ordered(gain, limit), text, {"a": a, "b": b, "gain": gain, "bound": limit})


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


def _error(point: Point) -> float:
    return (point.std or 0.0) / math.sqrt(point.trials)


def _previous(curve: tuple[Point, ...], nimg: int | None) -> int | None:
    """Images at the evaluation before a crossing; None without such an evaluation."""
    earlier = [point.nimg for point in curve if nimg is not None and point.nimg < nimg]
    return earlier[-1] if earlier else None
