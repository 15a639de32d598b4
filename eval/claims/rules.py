"""Claims as data (``studies/*/claims.yaml``): statements, and the rules that decide them.

Rules: EQ (a printed number is reproduced), LT (A is better than B), RATIO (A/B lies in a range), REACHES (a curve falls
to a level in time) and SHAPE (the form of a curve).
"""

import dataclasses
import inspect
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Annotated, Any, Literal

from eval.claims.evidence import UNDECIDED, Evidence, Finding, Operand, Outcome, Retraining, Side, Z, decided
from eval.contrasts import NotMeasuredError, pooled_std
from eval.results.logs import Point, first_at_or_below
from eval.results.published import agreement_of
from eval.results.sheet import check_columns
from eval.results.summary import Estimate
from sida.config.settings import Count, Finite, Positive, Variants, from_mapping, load_yaml
from sida.errors import SettingError, UserError, suggestion

#: Share of the training seeds that must have a curve's form; at most the rest may have it where it is contradicted.
_MOST = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A comparison of a claim: the settings of its rule, and the decision by them; a class for each rule.

    Attributes:
        rule: Name of the rule.
        metric: Key of the metric.
        a: The generator that is claimed to be better (faster, equal to the published number).
        across: Reason why operands may be compared although their values are of other identities (protocol, images,
            reference); the evidence then names both. Without it such values are not compared.
    """

    rule: str
    metric: str = "fid"
    a: Operand
    across: str = ""

    @classmethod
    def text(cls) -> str:
        """The rule in words, for pages: the first paragraph of its docstring."""
        return " ".join(str(inspect.getdoc(cls)).partition("\n\n")[0].partition(": ")[2].split())

    @property
    def operands(self) -> dict[str, Operand]:
        """Operands by key."""
        return {key: value for key, value in vars(self).items() if isinstance(value, Operand)}

    @property
    def compared(self) -> dict[str, Operand]:
        """Operands whose values of the metric must be comparable."""
        return self.operands

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """Decides the comparison.

        Args:
            evidence: Measurements, training logs and published numbers.
            where: Place of the comparison, for messages.

        Raises:
            NotMeasuredError: Data are missing.
            UserError: An unknown published number, or conditions that match several runs.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class EqualRule(Rule):
    """Rule EQ: a published number is reproduced: |m − p| within three standard errors of the difference (at least 1 %
    of p; 2 % where no spread was published; 0.01 for precision and recall); outside of that it is better or worse than
    printed, and not reproduced either way: a leak or a wrong reference makes numbers better.
    """

    def __post_init__(self) -> None:
        if self.a.published is None:
            raise SettingError("a.published", "the rule compares with a published number", "name its id")

    @property
    def compared(self) -> dict[str, Operand]:
        """Nothing: the agreement with the published number asks whether it may be compared."""
        return {}

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A published number is reproduced; neither a worse nor a better one is a reproduction."""
        number = evidence.quoted(self.a, f"{where}.a")
        if evidence.by_published:
            raise NotMeasuredError("", "needs a measurement")
        found = dataclasses.replace(evidence, retraining=None).side(self.a, self.metric, f"{where}.a")
        lines = evidence.measurements.lines(evidence.runs_of(self.a)[0], self.metric)
        agreed = agreement_of(found.estimate, lines, number)
        if isinstance(agreed, str):
            raise NotMeasuredError("", f"not compared: {agreed}")
        value, shown = found.mean, found.text
        if agreed.lowest is not None:
            value = agreed.lowest
            shown = f"{value:.4g} (the lowest of trials 0 to {number.lowest_of - 1}, {found.name})"
        word = {"agrees": "agrees", "better": "better than printed", "worse": "worse than printed"}[agreed.outcome]
        text = (
            f"{self.metric} {shown}, published {number.text}{' ± ' + number.std if number.std else ''}; {word} "
            f"(Δ {agreed.difference:+.3g}, allowed {agreed.tolerance:.2g})"
        )
        numbers = {"a": value, "published": number.value, "difference": agreed.difference}
        return Finding("supported" if agreed.outcome == "agrees" else "contradicted", text, numbers)


@dataclass(frozen=True, kw_only=True)
class LessRule(Rule):
    """Rule LT: A is better than B: the interval of the difference of the means (Welch's t) excludes 0. Of single
    generators it is a 99 % interval with the noise of evaluation and, where the file of claims states it, the scatter
    of a repeated training of each student; over training seeds it is a 95 % interval, with several teachers within each
    teacher. A quoted number b may be off by its rounding and by the stated slack.

    Attributes:
        b: The generator, or published number of others, that A is compared with.
        direction: Whether lower or higher values are better.
        slack: Allowance for a quoted number b that is the lowest of several evaluations.
        equal_images: Whether A and B are compared by their last evaluations during training after equally many images,
            instead of by the networks that the trainings kept.
        seeds: Least number of training seeds of both sides; 1: single generators.
    """

    b: Operand
    direction: Literal["lower", "higher"] = "lower"
    slack: Finite = 0.0
    equal_images: bool = False
    seeds: Count = 1

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """A is better than B beyond the noise of evaluation and of training."""
        images = evidence.equal_images((self.a, self.b), self.metric, self.seeds) if self.equal_images else None
        a = evidence.side(self.a, self.metric, f"{where}.a", self.seeds, images)
        b = evidence.side(self.b, self.metric, f"{where}.b", self.seeds, images)
        better, worse = (b, a) if self.direction == "lower" else (a, b)
        gain = better.mean - worse.mean
        allowed = self.slack if self.b.named else self.slack + evidence.quoted(self.b, f"{where}.b").half_unit
        # Rounding and the choice of the lowest may each have moved the number by as much as they can.
        sure = math.copysign(max(0.0, abs(gain) - allowed), gain)
        text = f"{self.metric} {a.text} against {b.text}"
        text += f", after {images:,} images each" if images is not None else ""
        text += f"; gain {gain:.3g}" + (f", after {allowed:.2g} for rounding {sure:.3g}" if allowed else "")
        numbers = {"a": a.mean, "b": b.mean, "gain": gain}
        found = decided(better.minus(worse, sure, 1.0, 1.0), text, numbers)
        # Without any scatter the interval of equal means ends at 0.
        return found if sure else dataclasses.replace(found, outcome=UNDECIDED)


@dataclass(frozen=True, kw_only=True)
class RatioRule(Rule):
    """Rule RATIO: the interval of the ratio of A to B lies in the given range as a whole, and outside of it as a whole
    where it is contradicted: over trials, training and seeds as in rule LT, 99 % over the records of a log; of spreads
    (largest − smallest mean over a column's values, by their mean) 95 % over training seeds.

    Attributes:
        b: The generator or number that A is compared with.
        low: Least value.
        high: Largest value.
        quantity: Quantity of the training logs that is compared instead of a metric (``memory_reserved_gb`` is the most
            that was reserved), or ``nfe``.
        gpus: Cards that a comparison of a logged quantity is about, ``8 × V100``; other cards decide nothing.
        spread: Column of the sheet: compared are the relative spreads of the metric over its values.
        seeds: Least number of training seeds of both sides (with ``spread``, for each value); 1: single generators.
    """

    b: Operand
    low: float = 0.0
    high: float = math.inf
    quantity: (
        Literal["img_per_s", "seconds_per_kimg", "memory_mb", "memory_reserved_mb", "memory_reserved_gb", "nfe"] | None
    ) = None
    gpus: str = ""
    spread: str | None = None
    seeds: Count = 1

    def __post_init__(self) -> None:
        check_columns("spread", [self.spread] if self.spread is not None else [])

    @property
    def compared(self) -> dict[str, Operand]:
        """The operands, unless a quantity is compared."""
        return {} if self.quantity else self.operands

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """The ratio of a metric or of a logged quantity lies in a range, beyond its uncertainty."""
        a, b = (self._side(operand, evidence, f"{where}.{key}") for key, operand in self.operands.items())
        if not b.mean or not math.isfinite(a.mean / b.mean):
            raise NotMeasuredError("", f"no ratio of {a.text} to {b.text}")
        value = a.mean / b.mean
        what = "" if self.a.value is not None else f"{self.quantity or self.metric} "
        claimed = f"{self.low:g} to {self.high:g}" if self.low else f"at most {self.high:g}"
        claimed = claimed if math.isfinite(self.high) else f"at least {self.low:g}"
        text = f"{what}{a.text} against {b.text}; ratio {value:.3f}, claimed {claimed}"
        found = a.minus(b, value, 1 / b.mean, value / b.mean)
        return decided(found, text, {"a": a.mean, "b": b.mean, "ratio": value}, self.low, self.high)

    def _side(self, operand: Operand, evidence: Evidence, where: str) -> Side:
        if self.quantity and operand.value is None:
            return evidence.quantity(operand, self.quantity, self.gpus, where)
        if self.spread and not evidence.by_published:
            return self._spread(operand, evidence, self.spread)
        return evidence.side(operand, self.metric, where, self.seeds)

    def _spread(self, operand: Operand, evidence: Evidence, column: str) -> Side:
        """(Largest − smallest) / mean of a metric over a column's values."""
        groups: dict[Any, list[float]] = {}
        for name in evidence.runs_of(operand):
            if name not in evidence.runs:
                raise NotMeasuredError("", f"run '{name}' is not in the sample sheet, which has {column}")
            mean = evidence.measurements.estimate(name, self.metric).mean
            groups.setdefault(getattr(evidence.runs[name], column), []).append(mean)
        if len(groups) < 2 or min(map(len, groups.values())) < max(2, self.seeds):
            raise NotMeasuredError("", f"fewer than {self.seeds} training seeds for each {column} of {operand}")
        cells = sorted(groups.values(), key=statistics.fmean)
        middle = statistics.fmean(map(statistics.fmean, cells))
        std, df = pooled_std(cells)
        width = (statistics.fmean(cells[-1]) - statistics.fmean(cells[0])) / middle
        noise = [((std / middle) ** 2 * (1 / len(cells[0]) + 1 / len(cells[-1])), df)]
        return Side(f"spread over {column}: {operand}", Estimate(width, None, 1), noise)


@dataclass(frozen=True, kw_only=True)
class ReachesRule(Rule):
    """Rule REACHES: A's curve of evaluations first falls to a level (times the factor) within the stated number of
    images, or within B's number divided by the stated one, also when the noise of evaluation and the scatter of a
    repeated training (2.6 standard errors) count against it; contradicted where it does not with both, and the distance
    of two evaluations, in its favour.

    Attributes:
        images: Largest number of images.
        b: The training that A is compared with, in place of ``images``.
        times: How often B's images must contain A's.
        level: A row's measured mean or a published number; by default the lowest value of B's curve.
        factor: Multiple of the level.
    """

    images: Count | None = None
    b: Operand | None = None
    times: Positive = 1.0
    level: Operand | None = None
    factor: Positive = 1.0

    def __post_init__(self) -> None:
        if (self.images is None) == (self.b is None):
            raise SettingError("images", "name images, or a training b to compare with, one of them")
        if self.level is None and self.b is None:
            raise SettingError("level", "images alone need a level", "name a row or a published number")

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """The curve falls to a multiple of a level within a number of images."""
        evidence.require_curves()
        name = evidence.run_of(self.a)
        other = evidence.run_of(self.b) if self.b else name
        curve, slow_curve = evidence.curves([name, other], self.metric)
        level, error, meaning = self._level(slow_curve, evidence, f"{where}.level")
        if curve[-1].std is None:
            noise = evidence.noise_of_one(name, self.metric, curve[-1])
            if noise is None:
                raise NotMeasuredError("", f"nothing says how much an evaluation of {evidence.label(name)} scatters")
            error = math.hypot(error, level * noise)
        again = evidence.retraining.std.get(self.metric, 0.0) if evidence.retraining else 0.0
        error = math.hypot(error, level * again, level * again if self.b else 0.0)
        text, limit = f"{self.metric} {level:.4g} ({meaning}): ", float(self.images or 0)
        numbers: dict[str, Any] = {"level": level}
        if self.b is not None:
            slow = first_at_or_below(slow_curve, level)
            if slow is None:
                raise NotMeasuredError("", f"{evidence.label(other)} never reaches {text[:-2]}")
            text += f"{evidence.label(other)} after {slow:,} images, "
            limit, numbers = slow / self.times, numbers | {"images_b": slow}
        reached, late, early = (first_at_or_below(curve, level - z * error, shift=z) for z in (0.0, Z, -Z))
        before = max((p.nimg for p in curve if early is not None and p.nimg < early), default=0)
        text += f"{evidence.label(name)} " + ("never" if reached is None else f"after {reached:,}")
        text += f" of {curve[-1].nimg:,} (with noise after "
        text += f"{'no' if early is None else f'{before:,}'} to {'no' if late is None else f'{late:,}'} images), "
        text += f"claimed within {limit:,.0f}"
        if early is None and curve[-1].nimg < limit:
            raise NotMeasuredError("", f"{evidence.label(name)} has seen {curve[-1].nimg:,} images of {limit:,.0f}")
        outcome: Outcome = "supported" if late is not None and late <= limit else UNDECIDED
        outcome = "contradicted" if early is None or before > limit else outcome
        ratio = {"ratio": numbers["images_b"] / reached} if reached and self.b else {}
        return Finding(outcome, text, numbers | {"images": reached, "claimed": limit} | ratio)

    def _level(self, slow: tuple[Point, ...], evidence: Evidence, where: str) -> tuple[float, float, str]:
        """Level times factor, its standard error, and its description."""
        times = f"{self.factor:g} × " if self.factor != 1 else ""
        if self.level is None:
            best = min(slow, key=lambda point: point.value)
            return self.factor * best.value, (best.std or 0.0) / math.sqrt(best.trials), f"{times}its lowest value"
        side = dataclasses.replace(evidence, retraining=None).side(self.level, self.metric, where)
        if not self.level.named:
            return self.factor * side.mean, 0.0, times + side.name
        # The Fréchet distance falls with the number of images: levels of another n are not comparable.
        sizes = {point.num_samples for point in slow} - {None}
        measured = evidence.measurements.lines(evidence.runs_of(self.level)[0], self.metric)[0].n
        if sizes - {measured}:
            raise NotMeasuredError("", f"curves use {sizes} images per evaluation, the level {measured:,}")
        error = math.sqrt(math.fsum(variance for variance, _ in side.variances()))
        return self.factor * side.mean, self.factor * error, times + side.name


@dataclass(frozen=True, kw_only=True)
class ShapeRule(Rule):
    """Rule SHAPE: each training seed's curve of evaluations has the form or not: supported where two of three seeds
    have it, contradicted where at most one of three has it. A straight line needs the least R² and a higher one than
    the other form; a value that is not finite is above every factor.

    Attributes:
        form: ``exponential`` or ``power``: until its lowest value a straight line of the logarithm against images, or
            against their logarithm. ``diverging``: it ends above the factor times its lowest value. ``stable``: it
            never rises above the factor times the lowest value before, and ends below its start.
        low: Least R² of a straight line.
        factor: Multiple of the lowest value.
        b: Diverging: the generators whose mean end A's may exceed instead.
        high: Multiple of B's end.
        images: Stable: number of images from which each evaluation must lie below the start.
        seeds: Least number of training seeds.
    """

    form: Literal["exponential", "power", "diverging", "stable"]
    low: float = 0.0
    factor: Positive = 1.0
    b: Operand | None = None
    high: float = math.inf
    images: int = 0
    seeds: Count = 3

    def decide(self, evidence: Evidence, where: str) -> Finding:
        """The curves have the form in most of the training seeds."""
        evidence.require_curves()
        names = evidence.runs_of(self.a, self.seeds)
        others = evidence.runs_of(self.b, self.seeds) if self.b else []
        curves = evidence.curves([*names, *others], self.metric, finite=False)
        ends = [curve[-1].value for curve in curves[len(names) :]]
        limit = self.high * statistics.fmean(ends) if ends else math.inf
        found = [self._of(curve, limit) for curve in curves[: len(names)]]
        share = sum(holds for holds, _ in found) / len(found)
        outcome: Outcome = "supported" if share >= _MOST else "contradicted" if share <= 1 - _MOST else UNDECIDED
        text = (
            f"{self.metric} of {evidence.label(names[0])}: {sum(holds for holds, _ in found)} of {len(found)} training "
            f"seeds are {self.form} ({'; '.join(text for _, text in found)})"
        )
        return Finding(outcome, text, {"share": share, "seeds": len(found)})

    def _of(self, curve: tuple[Point, ...], limit: float) -> tuple[bool, str]:
        """Whether a curve has the form, and its numbers in words."""
        values = [point.value for point in curve]
        lowest, end = min(values), values[-1]
        if self.form == "diverging":
            above = not math.isfinite(end) or end > self.factor * lowest or end > limit
            return above, f"lowest {lowest:.4g}, end {end:.4g}"
        if self.form == "stable":
            rises = (later / least for least, later in zip(accumulate(values, min), values[1:]))
            rise = max((rise if math.isfinite(rise) else math.inf for rise in rises), default=1.0)
            late = [p.value for p in curve if p.nimg >= self.images] if self.images else [end]
            if not late:
                raise NotMeasuredError("", f"no evaluation from {self.images:,} images on")
            text = f"rises to {rise:.2f} × its lowest, ends {values[0] - max(late):.3g} below its start"
            return rise <= self.factor and max(late) < values[0], text
        points = [point for point in curve if point.nimg > 0 and 0 < point.value < math.inf]
        falling = points[: 1 + min(range(len(points)), key=lambda i: points[i].value, default=0)]
        if len(falling) < 4:
            raise NotMeasuredError("", "fewer than four evaluations until the lowest")
        heights = [math.log(point.value) for point in falling]
        widths = {"exponential": [float(p.nimg) for p in falling], "power": [math.log(p.nimg) for p in falling]}
        fits = {form: statistics.correlation(x, heights) ** 2 for form, x in widths.items()}
        straight = fits[self.form] == max(fits.values()) and fits[self.form] >= self.low
        return straight, f"R² exponential {fits['exponential']:.3f}, power {fits['power']:.3f}"


#: Rules by name.
RULES: dict[str, type[Rule]] = {
    "EQ": EqualRule, "LT": LessRule, "RATIO": RatioRule, "REACHES": ReachesRule, "SHAPE": ShapeRule,
}  # fmt: skip


def _rule(name: Any, where: str) -> type[Rule]:
    if name not in RULES:
        raise UserError(where, f"no claim rule '{name}'{suggestion(str(name), RULES)}")
    return RULES[name]


#: A comparison of a claim; the rule determines the settings.
AnyRule = Annotated[Rule, Variants("rule", lambda: RULES, _rule)]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A falsifiable statement.

    Attributes:
        id: Short id, e.g. ``C-27``.
        statement: The statement in our words.
        source: Place in the paper.
        parts: Comparisons; ``for`` in the file repeats a part over values.
        ties: Number of parts that may be undecided although measured.
        reason: Reason why a claim without parts is not decided.
        counterpart: Claims of the papers that a claim about other data is the counterpart of, with commas between.
        note: Further words for the reader.
    """

    id: str
    statement: str
    source: str = ""
    parts: tuple[AnyRule, ...] = ()
    ties: int = 0
    reason: str = ""
    counterpart: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.parts and not self.reason:
            raise SettingError("reason", "a claim without parts needs a reason why it is not decided")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """A file of claims.

    Attributes:
        about: Subject of the statements, for pages: ``the papers' data sets``.
        printed: Whether the published numbers decide as well.
        retraining: Scatter of a network that is trained again; without it statements are about single networks.
        claims: The claims.
    """

    about: str
    printed: bool = False
    retraining: Retraining | None = None
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        ids = [claim.id for claim in self.claims]
        for number, name in enumerate(ids):
            if name in ids[:number]:
                raise SettingError(f"claims[{number}].id", f"'{name}' occurs twice", "give each claim its own id")


def load_claims(path: str | Path) -> Claims:
    """Reads ``claims.yaml``; ``for: {name: [values]}`` repeats a part, ``{name}`` is replaced.

    Raises:
        UserError: Missing file, unknown key, wrong type or an id used twice (file, claim and key are named).
    """
    content = load_yaml(path)
    if isinstance(listed := content.get("claims"), list):
        content["claims"] = [_repeated(claim, f"{path}: claims[{number}]") for number, claim in enumerate(listed)]
    return from_mapping(Claims, content, str(path))


def _repeated(claim: Any, where: str) -> Any:
    """A claim of a file with its repeated parts; what is no claim as it is."""
    if not isinstance(claim, dict) or not isinstance(claim.get("parts"), list):
        return claim
    parts = []
    for number, part in enumerate(claim["parts"]):
        values = part.get("for", {}) if isinstance(part, dict) else {}
        if not isinstance(values, dict) or not all(isinstance(v, list) and v for v in values.values()):
            raise UserError(f"{where}.parts[{number}].for", "must map names to lists of values")
        body = {key: value for key, value in part.items() if key != "for"} if values else part
        parts += [_filled(body, dict(zip(values, choice))) for choice in product(*values.values())]
    return {**claim, "parts": parts}


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        for name, replacement in names.items():
            if value == "{" + name + "}":
                return replacement
            value = value.replace("{" + name + "}", str(replacement))
        return value
    if isinstance(value, dict):
        return {key: _filled(item, names) for key, item in value.items()}
    return [_filled(item, names) for item in value] if isinstance(value, list) else value
