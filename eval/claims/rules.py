"""Rules that decide claims, as functions of the evidence and the generators that are compared.

EQ (a published number is reproduced), LT (A is better than B), RATIO (A/B lies in a range) and REACHES (a curve falls
to a level in time). Each returns a finding; without a measurement it is 'not decided here' with the reason. Arguments
that all rules have:

- ``evidence``: measurements, training logs and published numbers;
- ``a``: the generator that is claimed to be better (faster, equal to the published number);
- ``metric``: key of the metric;
- ``alike``: columns of the sheet in which the operands have equal values, as the sentence says (``teacher``,
  ``alpha``), or ``length``, the images of the trainings; otherwise nothing is decided;
- ``across``: reason why operands may be compared although their values are of other identities (protocol, images,
  reference); the evidence then names both. Without it such values are not compared.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, ParamSpec

from sida.config.lookup import docstring
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import UNDECIDED, Finding, Operand, Outcome, Side, finding_of, show
from sida.eval.contrasts import DECIDING, NotMeasuredError, interval_of, joint
from sida.eval.results.logs import Point, first_at_or_below
from sida.eval.results.numbers import compare
from sida.eval.results.retraining import KNOWN

#: Standard errors with a coverage of 99 % where the noise is known.
Z = 2.6
_WORDS = {"agrees": "agrees", "better": "better than printed", "worse": "worse than printed"}
_Arguments = ParamSpec("_Arguments")
Quantity = Literal["img_per_s", "seconds_per_kimg", "memory_mb", "memory_reserved_mb", "memory_reserved_gb", "nfe"]
#: Rules by name.
RULES: dict[str, Callable[..., Finding]] = {}


def _rule(name: str) -> Callable[[Callable[_Arguments, Finding]], Callable[_Arguments, Finding]]:
    """Makes a function a rule, which decides only where its operands may be compared, and adds it to RULES."""

    def add(decide: Callable[_Arguments, Finding]) -> Callable[_Arguments, Finding]:
        signature = inspect.signature(decide)

        @functools.wraps(decide)
        def rule(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Finding:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            settings = bound.arguments
            operands = {key: settings[key] for key in ("a", "b", "level") if settings.get(key) is not None}
            across = settings.get("across", "")
            # EQ itself asks whether a value may be compared with the published number.
            metric = "" if name == "EQ" or settings.get("quantity") else settings["metric"]
            try:
                evidence = settings["evidence"]
                identities = evidence.require_comparable(operands, metric, across, settings.get("alike", ()))
                finding = decide(*args, **kwargs)
                if across:
                    sides = "; ".join(f"{key} under {identity}" for key, identity in identities.items())
                    finding = dataclasses.replace(finding, evidence=f"{finding.evidence}; {sides} ({across})")
            except NotMeasuredError as reason:
                finding = Finding(UNDECIDED, str(reason))
            except ZeroDivisionError:
                finding = Finding(UNDECIDED, "a ratio to 0 is not defined")
            return dataclasses.replace(finding, rule=name, operands=tuple(operands.values()))

        RULES[name] = rule
        return rule

    return add


@_rule("EQ")
def equal(evidence: Evidence, a: Operand, metric: str = "fid") -> Finding:
    """Rule EQ: a published number is reproduced: |m − p| within three standard errors of the difference (at least 1 %
    of p; 2 % where no spread was published; 0.01 for precision and recall). A better number is not reproduced either: a
    leak or a wrong reference makes numbers better. For a generator or teacher that is trained here the scatter of
    both trainings counts, 1.3 % each for FID.
    """
    number = evidence.published(a)
    if evidence.by_published:
        raise NotMeasuredError("", "needs a measurement")
    evidence.runs_of(a)
    measured = evidence.number(a, metric)
    agreement = compare(measured, number)
    if isinstance(agreement, str):
        raise NotMeasuredError("", f"not compared: {agreement}")
    value, name = measured.estimate.mean, evidence.name_of(measured)
    value_text = f"{show(measured.estimate)} ({name})"
    if agreement.lowest is not None:
        value = agreement.lowest
        value_text = f"{value:.4g} (the lowest of trials 0 to {number.lowest_of - 1}, {name})"
    text = (
        f"{metric} {value_text}, published {number.text}{' ± ' + number.std if number.std else ''}; "
        f"{_WORDS[agreement.outcome]} (Δ {agreement.difference:+.3g}, allowed {agreement.tolerance:.2g})"
    )
    numbers = {"a": value, "published": number.value, "difference": agreement.difference}
    return Finding("supported" if agreement.outcome == "agrees" else "contradicted", text, numbers)


@_rule("LT")
def better(
    evidence: Evidence,
    a: Operand,
    b: Operand,
    metric: str = "fid",
    *,
    direction: Literal["lower", "higher"] = "lower",
    slack: float = 0.0,
    equal_images: bool = False,
    seeds: int = 1,
    alike: Sequence[str] = (),
    across: str = "",
) -> Finding:
    """Rule LT: A is better than B: the 99 % interval of the difference of the means (Welch's t) excludes 0. Of single
    generators it has the noise of evaluation and the scatter of a repeated training of each student, without which
    nothing is decided; over training seeds, which must be trainings of one generator, it follows their design, with
    several teachers within each teacher. A published number b may be off by its rounding and by the stated slack.

    Args:
        evidence: Measurements, training logs and published numbers.
        a: The generator that is claimed to be better.
        b: The generator, or published number of others, that A is compared with.
        metric: Key of the metric.
        direction: Whether lower or higher values are better.
        slack: Allowance for a published number b that is the lowest of several evaluations.
        equal_images: Whether A and B are compared by their last evaluations during training after equally many images,
            instead of by the networks that the trainings kept.
        seeds: Least number of training seeds of both sides; 1: single generators.
        alike: See the module.
        across: See the module.
    """
    images = evidence.equal_images((a, b), metric, seeds) if equal_images else None
    left, right = (evidence.side(one, metric, seeds, images, other=other) for one, other in ((a, b), (b, a)))
    first, second = (right, left) if direction == "lower" else (left, right)
    gain = first.mean - second.mean
    allowed = slack if b.named else slack + evidence.published(b).half_unit
    # Rounding and the choice of the lowest may each have moved the number by as much as they can.
    sure = math.copysign(max(0.0, abs(gain) - allowed), gain)
    text = f"{metric} {left.text} against {right.text}"
    text += f", after {images:,} images each" if images is not None else ""
    text += f"; gain {gain:.3g}" + (f", after {allowed:.2g} for rounding {sure:.3g}" if allowed else "")
    numbers = {"a": left.mean, "b": right.mean, "gain": gain}
    finding = finding_of(first.minus(second, sure, 1.0, 1.0), text, numbers)
    # Without any noise the interval of equal means ends at 0.
    return finding if sure else dataclasses.replace(finding, outcome=UNDECIDED)


@_rule("RATIO")
def ratio(
    evidence: Evidence,
    a: Operand,
    b: Operand,
    metric: str = "fid",
    *,
    low: float = -math.inf,
    high: float = math.inf,
    quantity: Quantity | None = None,
    gpus: str = "",
    equal_images: bool = False,
    seeds: int = 1,
    alike: Sequence[str] = (),
    across: str = "",
) -> Finding:
    """Rule RATIO: the whole 99 % interval of the ratio of A to B lies in the given range; contradicted if the whole
    interval lies outside. The interval is over trials, training and seeds as in rule LT, or over the records of a log.

    Args:
        evidence: Measurements, training logs and published numbers.
        a: The generator or number on top.
        b: The generator or number that A is compared with.
        metric: Key of the metric.
        low: Least value.
        high: Largest value.
        quantity: Quantity of the training logs that is compared instead of a metric (``memory_reserved_gb`` is the most
            that was reserved), or ``nfe``.
        gpus: Cards that a comparison of a logged quantity is about, ``8 × V100``; runs on other cards are not compared.
        equal_images: See :func:`better`.
        seeds: Least number of training seeds of both sides; 1: single generators.
        alike: See the module.
        across: See the module.
    """
    images = evidence.equal_images((a, b), metric, seeds) if equal_images else None

    def side(operand: Operand, other: Operand) -> Side:
        if quantity and operand.value is None:
            return evidence.quantity(operand, quantity, gpus)
        return evidence.side(operand, metric, seeds, images, other=other)

    top, bottom = side(a, b), side(b, a)
    if not bottom.mean or not math.isfinite(top.mean / bottom.mean):
        raise NotMeasuredError("", f"no ratio of {top.text} to {bottom.text}")
    value = top.mean / bottom.mean
    quantity_text = "" if a.value is not None else f"{quantity or metric} "
    bounds_text = f"{low:g} to {high:g}" if math.isfinite(low) else f"at most {high:g}"
    bounds_text = bounds_text if math.isfinite(high) else f"at least {low:g}"
    text = f"{quantity_text}{top.text} against {bottom.text}"
    text += f", after {images:,} images each" if images is not None else ""
    text += f"; ratio {value:.3f}, claimed {bounds_text}"
    interval = top.minus(bottom, value, 1 / bottom.mean, value / bottom.mean)
    return finding_of(interval, text, {"a": top.mean, "b": bottom.mean, "ratio": value}, low, high)


@_rule("REACHES")
def reaches(
    evidence: Evidence,
    a: Operand,
    b: Operand | None = None,
    metric: str = "fid",
    *,
    images: int | None = None,
    times: float = 1.0,
    level: Operand | None = None,
    factor: float = 1.0,
    alike: Sequence[str] = (),
    across: str = "",
) -> Finding:
    """Rule REACHES: A's curve of evaluations falls to a level (times the factor) within the stated number of images, or
    within B's number divided by the stated one. The claim is supported if the curve does so even where the noise of
    evaluation and the scatter of a repeated training (their 99 % interval) count against it. It is contradicted if the
    curve does not even where both, and the distance of two evaluations, count in its favour. Without a known scatter it
    is undecided.

    Args:
        evidence: Measurements, training logs and published numbers.
        a: The training whose curve falls.
        b: The training that A is compared with, instead of ``images``.
        metric: Key of the metric.
        images: Largest number of images.
        times: How often B's images must contain A's.
        level: A row's measured mean or a published number; by default the lowest value of B's curve.
        factor: Multiple of the level.
        alike: See the module.
        across: See the module.
    """
    if (images is None) == (b is None) or (level is None and b is None):
        raise ValueError("reaches needs images with a level, or a training b to compare with")
    evidence.require_curves()
    name = evidence.run_of(a)
    other = evidence.run_of(b) if b else name
    curve, slow_curve = evidence.curves([name, other], metric)
    bound, error, meaning = _level(evidence, other, slow_curve, level, metric, factor)
    if curve[-1].std is None:
        error = math.hypot(error, bound * evidence.noise_of_one(name, metric, curve[-1]))
    again = evidence.scatter(metric, bound)
    trainings = 1 + bool(b) + _is_another_training(evidence, level, a, metric, {name, other})
    of_training = joint([again] * trainings)
    margin = interval_of(0.0, [(error**2, KNOWN), *of_training], DECIDING).high
    text, limit = f"{metric} {bound:.4g} ({meaning}): ", float(images or 0)
    numbers: dict[str, Any] = {"level": bound}
    if b is not None:
        slow = first_at_or_below(slow_curve, bound)
        if slow is None:
            raise NotMeasuredError("", f"{evidence.label(other)} never reaches {text[:-2]}")
        text += f"{evidence.label(other)} after {slow:,} images, "
        limit, numbers = slow / times, numbers | {"images_b": slow}
    crossing = _crossing(curve, bound, margin)
    text += f"{evidence.label(name)} {crossing.words}, claimed within {limit:,.0f}"
    if crossing.earliest is None and curve[-1].nimg < limit:
        raise NotMeasuredError("", f"{evidence.label(name)} has seen {curve[-1].nimg:,} images of {limit:,.0f}")
    speed = {"ratio": numbers["images_b"] / crossing.images} if crossing.images and b else {}
    return Finding(crossing.outcome(limit), text, numbers | {"images": crossing.images, "claimed": limit} | speed)


@dataclasses.dataclass(frozen=True)
class _Crossing:
    """Numbers of images after which a curve falls to a level; None: never.

    Attributes:
        images: As measured.
        latest: Where noise counts against it.
        earliest: Where noise and the distance of two evaluations count in its favour.
        before: The last evaluation before ``earliest``, 0 without one.
        seen: Images of the curve.
    """

    images: int | None
    latest: int | None
    earliest: int | None
    before: int
    seen: int

    @property
    def words(self) -> str:
        """The numbers for readers."""
        after = "never" if self.images is None else f"after {self.images:,}"
        before = None if self.earliest is None else self.before
        ends = ("no" if number is None else f"{number:,}" for number in (before, self.latest))
        return f"{after} of {self.seen:,} (with noise after {' to '.join(ends)} images)"

    def outcome(self, limit: float) -> Outcome:
        """Whether the curve falls to the level within a number of images."""
        if self.earliest is None or self.before > limit:
            return "contradicted"
        return "supported" if self.latest is not None and self.latest <= limit else UNDECIDED


def _crossing(curve: tuple[Point, ...], level: float, margin: float) -> _Crossing:
    """Where a curve falls to a level, known up to a margin."""
    images, latest, earliest = (
        first_at_or_below(curve, level - sign * margin, shift=sign * Z) for sign in (0.0, 1.0, -1.0)
    )
    before = max((point.nimg for point in curve if earliest is not None and point.nimg < earliest), default=0)
    return _Crossing(images, latest, earliest, before, curve[-1].nimg)


def _is_another_training(
    evidence: Evidence, level: Operand | None, a: Operand, metric: str, runs: Collection[str]
) -> bool:
    """Whether a level is the value of a training beside A that represents its method, and is none of some runs."""
    if level is None or level.value is not None or {*evidence.measured(level)} & {*runs}:
        return False
    return bool(evidence.side(level, metric, other=a).retraining)


def _level(
    evidence: Evidence, slow_run: str, slow: tuple[Point, ...], level: Operand | None, metric: str, factor: float
) -> tuple[float, float, str]:
    """Level times factor, its standard error, and its description."""
    times = f"{factor:g} × " if factor != 1 else ""
    if level is None:
        best = min(slow, key=lambda point: point.value)
        std = best.value * evidence.noise_of_one(slow_run, metric, best) if best.std is None else best.std
        return factor * best.value, factor * (std / math.sqrt(best.trials)), f"{times}its lowest value"
    side = evidence.side(level, metric)
    if not level.named and level.published is None:
        return factor * side.mean, 0.0, times + side.name
    # The Fréchet distance falls with the number of images: levels of another n are not comparable.
    sizes = {point.num_samples for point in slow} - {None}
    lines = evidence.measurements.lines(evidence.runs_of(level)[0], metric) if level.named else ()
    num_samples = lines[0].n if lines else evidence.published(level).identity.n
    if sizes - {num_samples}:
        raise NotMeasuredError("", f"curves use {sizes} images per evaluation, the level {num_samples or 'unknown'}")
    error = math.sqrt(math.fsum(variance for variance, _ in side.variances(factor)))
    return factor * side.mean, error, times + side.name


def no_rule(reason: str) -> Finding:
    """The finding on a statement that no measurement here decides.

    Args:
        reason: Reason why it does not.
    """
    return Finding(UNDECIDED, reason)


def rule_text(name: str) -> str:
    """A rule in words, for pages: the first paragraph of its docstring."""
    return " ".join(docstring(RULES[name]).partition("\n\n")[0].partition(": ")[2].split())
