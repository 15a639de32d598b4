"""Rules that read the curves of evaluations: DIVERGES, STABLE, SHAPE, SPEED, REACHES."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from eval.claims.evidence import BLOCKS, Evidence, Z, decide_gain, decide_range, of_each
from eval.claims.model import UNDECIDED, Finding, Measured, Operand, Outcome, Size
from eval.effects.contrast import NotMeasuredError, difference
from eval.results.logs import Point, first_at_or_below
from sida.config.settings import Count


@dataclass(frozen=True, kw_only=True)
class DivergesRule(Measured):
    """Rule DIVERGES: the curve ends far above its lowest value.

    Attributes:
        factor: Least multiple of the lowest value.
        b: The generators whose end A's may exceed instead.
        high: Least multiple of B's end.
        seeds: Least number of training seeds.
    """

    text = (
        "at the end of its curve of evaluations a run lies above the factor times its own lowest value (or above the "
        "stated multiple of B's end): the 95 % interval of the geometric mean of the ratio over three or more training "
        "seeds lies above the factor, also after the lowest of several noisy evaluations is raised to what their noise "
        "takes from it; contradicted where the interval lies below the factor; a value that is not finite is above "
        "every factor"
    )
    effects = {"rise": "end over lowest {}"}
    factor: float = 1.0
    b: Operand | None = None
    high: float = math.inf
    seeds: int = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """At the end of its curve a run lies far above the lowest value it had reached."""
        names = evidence.seeds_of(self.a, self.seeds, f"{where}.a")
        curves = {name: _values(evidence, name, self.metric) for name in names}
        rises = {name: values[-1] / min(values) for name, values in curves.items()}
        gone = sum(not math.isfinite(rise) or rise > self.factor for rise in rises.values())
        listed = "; ".join(f"lowest {min(values):.4g}, end {values[-1]:.4g}" for values in curves.values())
        text = (
            f"{self.metric} of {evidence.label(names[0])}: {gone} of {len(names)} seeds end above {self.factor:g} × "
            f"their lowest value ({listed})"
        )
        numbers: dict[str, Any] = {"diverged": gone, "seeds": len(names)}
        if not all(map(math.isfinite, rises.values())):
            lost = not any(map(math.isfinite, rises.values()))
            return Finding("supported" if lost else UNDECIDED, text, numbers)
        rise = evidence.interval_over(names, lambda name: math.log(rises[name]))
        # The lowest of noisy evaluations lies below the curve.
        raised = {name: rises[name] / raised_lowest(len(curves[name]), name, self.metric, evidence) for name in names}
        sure = evidence.interval_over(names, lambda name: math.log(raised[name]))
        found, least = (decide_range(one, math.log(self.factor), shown=math.exp) for one in (rise, sure))
        outcome = UNDECIDED if found.outcome == "supported" != least.outcome else found.outcome
        text += f"; ratio {math.exp(rise.value):.3g}, {found.text}, with the noise of the lowest "
        text += f"{math.exp(sure.value):.3g}, claimed above {self.factor:g}"
        numbers |= {"rise": math.exp(rise.value)} | found.numbers
        if self.b is None:
            return Finding(outcome, text, numbers)
        others = evidence.seeds_of(self.b, self.seeds, f"{where}.b")
        above = difference(
            evidence.by_teacher(names, lambda name: math.log(curves[name][-1])),
            evidence.by_teacher(others, lambda name: math.log(_values(evidence, name, self.metric)[-1])),
        )
        second = decide_range(above, math.log(self.high), shown=math.exp)
        text += f"; or {math.exp(above.value):.3g} times the end of {evidence.label(others[0])}, {second.text}, "
        text += f"claimed above {self.high:g}"
        both = [outcome, second.outcome]
        outcome = "supported" if "supported" in both else outcome if both[0] == both[1] else UNDECIDED
        return Finding(outcome, text, numbers)

    def effect(self, numbers: Mapping[str, Any]) -> Size | None:
        """The ratio, or the share of seeds that diverge where the ratio is not finite."""
        if "rise" in numbers or "diverged" not in numbers:
            return super().effect(numbers)
        gone, seeds = numbers["diverged"], numbers["seeds"]
        return Size("diverging share of seeds", gone / seeds, False, f"{gone} of {seeds} seeds diverge")


@dataclass(frozen=True, kw_only=True)
class StableRule(Measured):
    """Rule STABLE: the curve never rises far above its lowest value so far.

    Attributes:
        factor: Largest multiple of the lowest value so far.
        images: Number of images from which the curve must lie below its start; 0: the end of the curve.
        seeds: Least number of training seeds.
    """

    text = (
        "over the whole curve of each of three or more training seeds no evaluation lies above the factor times the "
        "lowest before it, the 95 % interval of the largest such ratio (geometric mean over seeds) lies below the "
        "factor, and the curve lies below its start at its end (or from the stated number of images on) by a 95 % "
        "interval"
    )
    effects = {"gain": "{}", "rise": "end over lowest {}"}
    factor: float = 1.0
    images: int = 0
    seeds: int = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """No evaluation lies far above the lowest so far, and the curve falls below its start and stays there."""
        names = evidence.seeds_of(self.a, self.seeds, f"{where}.a")
        curves = {name: evidence.curve(name, self.metric, finite=False) for name in names}
        rises = {name: _rise([point.value for point in points]) for name, points in curves.items()}
        text = (
            f"{self.metric} of {evidence.label(names[0])}; {len(names)} training seeds: rises to at most "
            f"{max(rises.values()):.2f} × the lowest value so far (allowed {self.factor:g})"
        )
        numbers: dict[str, Any] = {"rise": max(rises.values()), "seeds": len(names)}
        raised = {name: raised_lowest(len(curves[name]), name, self.metric, evidence) for name in names}
        if any(rise / raised[name] > self.factor for name, rise in rises.items()):
            return Finding("contradicted", text, numbers)
        risen = evidence.interval_over(names, lambda name: math.log(rises[name]))
        steady = decide_range(risen, -math.inf, math.log(self.factor), shown=math.exp)
        late = sorted(set.intersection(*({p.nimg for p in points[1:]} for points in curves.values())))
        late = [nimg for nimg in late if nimg >= self.images] if self.images else late[-1:]
        if not late:
            raise NotMeasuredError("", f"no evaluation that all seeds share from {self.images:,} images on")
        gains = [evidence.interval_over(names, lambda name: _fall(curves[name], nimg)) for nimg in late]  # noqa: B023
        gain = min(gains, key=lambda one: one.low)
        found = decide_gain(gain)
        when = f"from {self.images:,} images on at least" if self.images else "at the end"
        text += f"; below its start {when} by {gain.value:.3g}, {found.text}"
        return Finding(of_each([steady.outcome, found.outcome]), text, numbers | {"gain": gain.value} | found.numbers)


@dataclass(frozen=True, kw_only=True)
class ShapeRule(Measured):
    """Rule SHAPE: the curve has the form of an exponential or a power.

    Attributes:
        form: The form that is claimed.
        low: Least R².
        seeds: Least number of training seeds.
    """

    text = (
        "a curve falls, from its first evaluation of a trained network to its lowest, as a straight line of its "
        "logarithm against images (exponential) or against their logarithm (power): by 95 % intervals over the "
        f"training seeds ({BLOCKS}) R² reaches the least value and exceeds that of the other form"
    )
    effects = {"fit": "R² of {}", "ahead": "lead in R² of {}"}
    form: Literal["exponential", "power"] = "exponential"
    low: float = 0.0
    seeds: int = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """Until its lowest value a curve is a straight line of ln metric against images, or against ln images."""
        names = evidence.seeds_of(self.a, self.seeds, f"{where}.a")
        other = "power" if self.form == "exponential" else "exponential"
        fits: dict[str, dict[str, float]] = {}
        for name in names:
            points = [point for point in evidence.curve(name, self.metric) if point.nimg > 0 and point.value > 0]
            lowest = min(range(len(points)), key=lambda i: points[i].value, default=0)
            falling = points[: lowest + 1]
            if len(falling) < 4:
                raise NotMeasuredError("", f"{evidence.label(name)}: fewer than four evaluations until the lowest")
            heights = [math.log(point.value) for point in falling]
            widths = {"exponential": [float(p.nimg) for p in falling], "power": [math.log(p.nimg) for p in falling]}
            fits[name] = {form: statistics.correlation(x, heights) ** 2 for form, x in widths.items()}
        straight = evidence.interval_over(names, lambda name: fits[name][self.form])
        ahead = evidence.interval_over(names, lambda name: fits[name][self.form] - fits[name][other])
        reached, better = decide_range(straight, self.low), decide_gain(ahead)
        outcome = of_each([reached.outcome, better.outcome])
        listed = "; ".join(f"{fit['exponential']:.3f}, {fit['power']:.3f}" for fit in fits.values())
        text = (
            f"{self.metric} of {evidence.label(names[0])} ({self.form}): R² {straight.value:.3f}, {reached.text}, "
            f"claimed at least {self.low:g}; above the other form's by {ahead.value:.3g}, {better.text}; R² of "
            f"exponential and power by seed: {listed}"
        )
        decisive = better if better.outcome == outcome != reached.outcome else reached
        numbers = {"fit": straight.value} if decisive is reached else {"ahead": ahead.value}
        return Finding(outcome, text, numbers | decisive.numbers | {"seeds": len(names)})


@dataclass(frozen=True, kw_only=True)
class SpeedRule(Measured):
    """Rule SPEED: A falls to a level with at most a share of B's images, by the noise of evaluations.

    Attributes:
        b: The generator that A is compared with.
        factor: Least ratio B/A.
        level: A run's measured mean or a published number; by default B's own minimum.
    """

    text = (
        "images until the running minimum first falls to a level: the ratio B/A must reach the factor, also when "
        "evaluation noise and the scatter of a repeated training (2.6 standard errors) and the evaluation interval "
        "count against it"
    )
    effects = {"ratio": "ratio of images"}
    b: Operand
    factor: float = 1.0
    level: Operand | None = None

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """Compares the images until the running minimum of A and of B first falls to a level."""
        require_curves(evidence)
        run_a, run_b = (evidence.runs_of(one, f"{where}.{key}")[0] for key, one in (("a", self.a), ("b", self.b)))
        curve_a, curve_b = evidence.curve(run_a, self.metric), evidence.curve(run_b, self.metric)
        if self.level is None:
            best_b = min(curve_b, key=lambda point: point.value)
            level, meaning = best_b.value, "its lowest value"
            error = (best_b.std or 0.0) / math.sqrt(best_b.trials)
        else:
            level, error, meaning = level_of(self.level, self.metric, curve_a + curve_b, evidence, where)
        error = math.hypot(error, level * _scatter([(run_a, curve_a), (run_b, curve_b)], self.metric, evidence))
        slow = first_at_or_below(curve_b, level)
        if slow is None:
            raise NotMeasuredError("", f"{evidence.label(run_b)} never reaches {level:.4g} ({meaning})")
        numbers = {"level": level, "images_b": slow, "factor": self.factor}
        fast = first_at_or_below(curve_a, level)
        text = f"{self.metric} {level:.4g} ({meaning}): {evidence.label(run_b)} after {slow:,} images, "
        if fast is None:
            return Finding("contradicted", text + f"{evidence.label(run_a)} never", numbers)
        # Evaluation noise and the spacing of evaluations, both against and for A.
        late = first_at_or_below(curve_a, level - Z * error, shift=Z)
        crossed = first_at_or_below(curve_a, level + Z * error, shift=-Z)
        early = [point.nimg for point in curve_a if crossed is not None and point.nimg < crossed]
        least = slow / late if late else 0.0
        most = slow / early[-1] if early and early[-1] else math.inf
        most_text = f"{most:.2g}" if math.isfinite(most) else "unbounded"
        text += (
            f"{evidence.label(run_a)} after {fast:,}; ratio {slow / fast:.2f} "
            f"(between {least:.2g} and {most_text} with noise and spacing), claimed at least {self.factor:g}"
        )
        outcome: Outcome = "supported" if least >= self.factor else "contradicted" if most < self.factor else UNDECIDED
        return Finding(outcome, text, {**numbers, "images_a": fast, "ratio": slow / fast})


@dataclass(frozen=True, kw_only=True)
class ReachesRule(Measured):
    """Rule REACHES: the curve reaches a level within a number of images.

    Attributes:
        level: A run's measured mean or a published number.
        images: Largest number of images.
        factor: Multiple of the level.
    """

    text = (
        "within the stated number of images the running minimum falls to the factor times a level, also when "
        "evaluation noise and the scatter of a repeated training (2.6 standard errors) count against it; contradicted "
        "where it does not with both in its favour"
    )
    level: Operand
    images: Count
    factor: float = 1.0

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """The running minimum falls to a multiple of a level within a number of images."""
        require_curves(evidence)
        name = evidence.runs_of(self.a, f"{where}.a")[0]
        curve = evidence.curve(name, self.metric)
        level, error, meaning = level_of(self.level, self.metric, curve, evidence, where)
        level, error = self.factor * level, self.factor * error
        runs = [(name, curve), (self.level.run or "", ())]
        error = math.hypot(error, level * _scatter(runs, self.metric, evidence))
        crossed = first_at_or_below(curve, level)
        late = first_at_or_below(curve, level - Z * error, shift=Z)
        early = first_at_or_below(curve, level + Z * error, shift=-Z)
        when = "never" if crossed is None else f"after {crossed:,} images"
        text = (
            f"{self.metric} {level:.4g} ({f'{self.factor:g} × ' if self.factor != 1 else ''}{meaning}): "
            f"{evidence.label(name)} {when} of {curve[-1].nimg:,}, claimed within {self.images:,}"
        )
        outcome: Outcome = UNDECIDED
        if late is not None and late <= self.images:
            outcome = "supported"
        elif early is None or early > self.images:
            if early is None and curve[-1].nimg < self.images:
                fault = f"{evidence.label(name)} has seen {curve[-1].nimg:,} images, fewer than {self.images:,}"
                raise NotMeasuredError("", fault)
            outcome = "contradicted"
        return Finding(outcome, text, {"level": level, "images": crossed, "claimed": self.images})


def require_curves(evidence: Evidence) -> None:
    """Refuses a decision by published numbers: no paper prints its curves as numbers."""
    if evidence.by_published:
        raise NotMeasuredError("", "the papers print the curves only as pictures")


def _values(evidence: Evidence, run: str, metric: str) -> list[float]:
    return [point.value for point in evidence.curve(run, metric, finite=False)]


def _fall(points: Sequence[Point], nimg: int) -> float:
    return points[0].value - next(point.value for point in points if point.nimg == nimg)


def raised_lowest(evaluations: int, run: str, metric: str, evidence: Evidence) -> float:
    """Factor by which noise may put the lowest of a curve's evaluations below the curve: that of equal values."""
    return 1 - expected_lowest(evaluations) * evidence.noise_of_one(run, metric)


def _rise(values: Sequence[float]) -> float:
    """Largest ratio of a value to the lowest before it."""
    lowest = list(accumulate(values, min))
    # Division cannot tell a rise above infinity.
    return max(
        (later / least if math.isfinite(least) else math.inf for least, later in zip(lowest, values[1:])), default=1.0
    )


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
    measured_n = evidence.measurements.lines(evidence.runs_of(operand, f"{where}.level")[0], metric)[0].n
    if sizes - {measured_n}:
        listed = ", ".join(f"{size:,}" for size in sorted(filter(None, sizes)))
        raise NotMeasuredError("", f"curves use {listed} images per evaluation, the level {measured_n:,}")
    return estimate.mean, estimate.standard_error or 0.0, name


def _scatter(runs: Iterable[tuple[str, Sequence[Point]]], metric: str, evidence: Evidence) -> float:
    """Relative scatter of runs: of a repeated training, and of evaluations whose own noise the curve does not have."""
    found = []
    for name, curve in runs:
        found.append(evidence.repeat_std(name, metric))
        if curve and curve[-1].std is None:
            found.append(evidence.noise_of_one(name, metric))
    return math.hypot(*found)


@functools.lru_cache(maxsize=64)
def expected_lowest(n: int) -> float:
    """Expected minimum of ``n`` independent standard normal values (trapezoidal rule)."""
    step = 1e-3
    points = [-8 + step * i for i in range(int(16 / step) + 1)]

    def density(x: float) -> float:
        above = 0.5 * math.erfc(x / math.sqrt(2))
        return n * above ** (n - 1) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    return step * math.fsum(x * density(x) for x in points)
