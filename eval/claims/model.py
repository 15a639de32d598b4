"""Claims as data (``studies/papers/claims.yaml``): a statement, its source and the rules that decide it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from eval.results.sheet import SELECTABLE, listed_entries
from sida.config.settings import Range, from_mapping, load_yaml
from sida.errors import SettingError, UserError, suggestion

Outcome = Literal["supported", "contradicted", "depends on the teacher", "not decided here"]
UNDECIDED: Outcome = "not decided here"
DEPENDS: Outcome = "depends on the teacher"
#: Sign of each verdict, in the order in which verdicts are counted.
SIGNS: dict[Outcome, str] = {"supported": "✓", "contradicted": "✗", DEPENDS: "≠", UNDECIDED: "–"}


def verdict_counts(outcomes: Iterable[str]) -> str:
    """Counts of verdicts as text: ``17 supported, 9 contradicted, 12 not decided here``."""
    found = list(outcomes)
    return ", ".join(f"{found.count(one)} {one}" for one in SIGNS if one != DEPENDS or one in found)


_BLOCKS = "with several teachers within each teacher, averaged over them"
RULES = {
    "EQ": "a published number is reproduced: |m − p| within three standard errors of the difference (at least 1 % of "
    "p; 2 % where no spread was published; 0.01 for precision and recall); outside of that it is better or worse than "
    "printed, and not reproduced either way: a leak or a wrong reference makes numbers better",
    "LT": "A is better than B: the 99 % interval of the difference of the means (Welch's t over evaluation trials) "
    "excludes 0; for generators trained here the interval also holds the scatter of a row that is trained again on "
    "another kind of processor, if the file of claims states it; speaks about these generators, not about training",
    "LTQ": "A is better than a quoted number b: the interval of rule LT around m lies beyond b, allowing for b's "
    "rounding",
    "TRAIN": "A trains to better values than B: the 95 % interval of the difference over at least three training seeds "
    f"excludes 0 (Welch's t, {_BLOCKS}); of the kept generators, or of the start or end of the curves where it says so",
    "SPEED": "images until the running minimum first falls to a level: the ratio B/A must reach the factor, also when "
    "evaluation noise and the scatter of a repeated training (2.6 standard errors) and the evaluation interval count "
    "against it",
    "COST": "what A spends (images, or seconds of training without evaluations) until its curve first falls to a "
    "level, against B: the 95 % interval of the geometric mean of the ratios B/A over at least three pairs of equal "
    f"training seeds ({_BLOCKS}) lies at or above the factor, or below it; a run that never reaches the level counts "
    "as a bound, which decides in its own direction alone and where every pair says so",
    "REACHES": "within the stated number of images the running minimum falls to the factor times a level, also when "
    "evaluation noise and the scatter of a repeated training (2.6 standard errors) count against it; contradicted "
    "where it does not with both in its favour",
    "DIVERGES": "at the end of its curve of evaluations a run lies above the factor times its own lowest value (or "
    "above the stated multiple of B's end): the 95 % interval of the geometric mean of the ratio over three or more "
    "training seeds lies above the factor, also after the lowest of several noisy evaluations is raised to what their "
    "noise takes from it; contradicted where the interval lies below the factor; a value that is not finite is above "
    "every factor",
    "STABLE": "over the whole curve of each of three or more training seeds no evaluation lies above the factor times "
    "the lowest before it, the 95 % interval of the largest such ratio (geometric mean over seeds) lies below the "
    "factor, and the curve lies below its start at its end (or from the stated number of images on) by a 95 % interval",
    "TREND": "a metric rises (or falls) with a column of the sheet: the 95 % interval of the least-squares slopes of "
    f"three or more training seeds ({_BLOCKS}) excludes 0",
    "LAW": "a metric of students is a power of that of their teachers: the 95 % interval over three or more training "
    "seeds of the exponent (least squares of logarithms over three or more teachers) lies in the given range; "
    "contradicted where it lies outside as a whole",
    "SHAPE": "a curve falls, from its first evaluation of a trained network to its lowest, as a straight line of its "
    "logarithm against images (exponential) or against their logarithm (power): by 95 % intervals over the training "
    f"seeds ({_BLOCKS}) R² reaches the least value and exceeds that of the other form",
    "SPREAD": "the relative spread (largest − smallest, by the mean) over a column's values is at most the factor "
    "times B's, by a 95 % interval over training seeds",
    "RATIO": "the interval of the ratio of A to B lies in the given range as a whole: 95 % over training seeds "
    f"({_BLOCKS}), 99 % over the records of a log, or over evaluation trials with the scatter of rule LT; contradicted "
    "where it lies outside as a whole",
    "FACT": "a number of an analysis, which no measurement gives, lies in the given range (with `than`: its ratio to "
    "another does): of one row the interval that the analysis gives, of conditions the 95 % interval over at least "
    "three training seeds; with B, it is larger for A than for B (Welch's t)",
    "NEAR": "A is at most the given factor times B, by the rule LT against that multiple",
    "NONE": "not decidable by these measurements; the reason is given",
}
#: Sentence for pages with comparisons of several teachers.
DEPENDS_NOTE = (
    "Where an F test finds that teachers differ by more than their training seeds do (p below 0.05), each teacher "
    "decides for itself; if the teachers disagree, the verdict is “depends on the teacher”."
)


@dataclass(frozen=True)
class Operand:
    """A generator in a comparison: a measured run (by id or conditions), a published number, or both.

    Attributes:
        at: Point of the run that counts: the kept generator (the best of the curve, which may be its start), or the
            first or last evaluation of the curve.
        value: RATIO: a number stated by ``label`` instead of a generator.
    """

    run: str | None = None
    where: Mapping[str, Any] | None = None
    published: str | None = None
    at: Literal["kept", "start", "end"] = "kept"
    value: float | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if (self.value is not None) != bool(self.label):
            raise SettingError("value", "a stated number needs a label that says what it is, and only that has a label")
        if self.run is not None and self.where is not None:
            raise SettingError("run", "use only one of run and where")
        if self.run is None and self.where is None and self.published is None and self.value is None:
            raise SettingError("run", "name a run, conditions (where) or a published number")
        for key in self.where or {}:
            if key not in SELECTABLE:
                raise SettingError("where", f"the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")

    def __str__(self) -> str:
        return self.run or (str(dict(self.where)) if self.where else str(self.published))


@dataclass(frozen=True)
class Part:
    """A comparison of a claim.

    Attributes:
        rule: See :data:`RULES`.
        metric: Key of the metric.
        a: The generator that is claimed to be better (faster, equal to the published number).
        b: The generator or number that A is compared with; for LTQ a published number alone.
        factor: SPEED, COST: least ratio; NEAR, SPREAD: largest multiple; DIVERGES, STABLE: multiple of the
            lowest value; REACHES: multiple of the level.
        low: RATIO, FACT, LAW: least value; SHAPE: least R².
        high: RATIO, FACT, LAW: largest value; DIVERGES: multiple of B's end.
        level: SPEED, COST, REACHES: a run's measured mean or a published number; for SPEED and COST B's own minimum by
            default.
        quantity: RATIO: ``img_per_s``, ``seconds_per_kimg``, ``memory_mb``, ``memory_reserved_mb`` or
            ``memory_reserved_gb`` (the most that was reserved) of the training logs, or ``nfe``, instead of a metric.
            COST: ``images`` (the default) or ``seconds``.
        gpus: RATIO of a quantity: cards that the comparison is about, ``8 × V100``; other cards decide nothing.
        crossing: COST: a level counts as reached between two evaluations (linear), or at the first evaluation that is
            not above the level.
        form: SHAPE: the form that is claimed.
        column: TREND, SPREAD: numeric column of the sheet.
        images: STABLE: number of images from which the curve must lie below its start (default: the end of the curve).
        REACHES: largest number of images.
        of: FACT: name of an analysis of the preset.
        fact: FACT: name of the number.
        than: FACT: name of the number by which it is divided.
        slack: LTQ: extra allowance because b is the minimum of several evaluations.
        across: Why A and B may be compared although their values are of other identities (protocol, images, reference);
            the evidence then names both. Without it such values are not compared.
        equal_budget: LT, TRAIN: A and B must have been trained on equally many images (to one percent: the last batch).
        seeds: TRAIN, FACT, COST, DIVERGES, STABLE, TREND, LAW, SPREAD, SHAPE, RATIO (of conditions): least number of
            training seeds.
    """

    rule: Literal[
        "EQ", "LT", "LTQ", "TRAIN", "SPEED", "COST", "REACHES", "DIVERGES", "STABLE", "TREND", "LAW", "SHAPE", "SPREAD",
        "RATIO", "NEAR", "FACT", "NONE",
    ]  # fmt: skip
    metric: str = "fid"
    direction: Literal["lower", "higher"] = "lower"
    a: Operand | None = None
    b: Operand | None = None
    factor: float = 1.0
    low: float = 0.0
    high: float = float("inf")
    level: Operand | None = None
    quantity: (
        Literal[
            "img_per_s",
            "seconds_per_kimg",
            "memory_mb",
            "memory_reserved_mb",
            "memory_reserved_gb",
            "nfe",
            "images",
            "seconds",
        ]
        | None
    ) = None
    crossing: Literal["interpolated", "evaluation"] = "interpolated"
    gpus: str = ""
    form: Literal["exponential", "power"] = "exponential"
    column: str = "alpha"
    images: int = 0
    of: str = ""
    fact: str = ""
    than: str = ""
    slack: float = 0.0
    across: str = ""
    equal_budget: bool = False
    seeds: int = 3
    label: str = ""

    def __post_init__(self) -> None:
        if self.rule not in ("NONE", "FACT") and self.a is None:
            raise SettingError("a", f"rule {self.rule} needs an operand a")
        if self.rule in ("LT", "LTQ", "TRAIN", "SPEED", "COST", "RATIO", "NEAR", "SPREAD") and self.b is None:
            raise SettingError("b", f"rule {self.rule} needs an operand b")
        if self.rule == "REACHES" and (self.level is None or not self.images):
            raise SettingError("level", "rule REACHES needs a level and a number of images")
        if self.quantity is not None and (self.quantity in ("images", "seconds")) != (self.rule == "COST"):
            raise SettingError("quantity", f"'{self.quantity}' is none of rule {self.rule}")
        if self.rule == "FACT" and not (self.of and self.fact):
            raise SettingError(
                "of", "rule FACT needs an analysis of the preset and one of its facts", "give of and fact"
            )
        if self.rule == "FACT" and self.b is not None and (self.a is None or self.a.run is not None):
            raise SettingError("a", "rule FACT compares rows by conditions on both sides")
        if self.rule in ("EQ", "LTQ"):
            quoted = self.a if self.rule == "EQ" else self.b
            if quoted is None or quoted.published is None:
                raise SettingError("published", f"rule {self.rule} needs a published number")


@dataclass(frozen=True)
class Repeats:
    """Scatter of rows that were trained again, with equal settings, on another kind of processor or by other code.

    Attributes:
        std: Relative standard deviation of one such row, by metric; a metric that is not listed has none.
        rows: Number of repeated rows behind it.
    """

    std: Mapping[str, float]
    rows: Annotated[int, Range(least=2)]


@dataclass(frozen=True)
class Claim:
    """A falsifiable statement.

    Attributes:
        id: Short id, e.g. ``C-27``.
        scope: Subject of the statement: the data set family of a preset, ``digits`` or ``paper``.
        statement: The statement in our words.
        source: Place in the paper.
        parts: Comparisons; ``for`` in the file repeats a part over values.
        combine: ``all`` parts must hold, or ``any`` of them.
        ties: Number of ``all`` parts that may be undecided although measured.
        reason: Reason why a claim without a rule is not decided.
        counterpart: Claims of the papers that a claim about digits is the counterpart of, with commas between them.
        opposite: The same where the claim states the opposite, such that its support speaks against theirs.
        related: Claims of the papers about the same matter that ask another question.
        here: What small networks say about a claim of the papers without a counterpart, or why they cannot decide it.
        repeats: Scatter of repeated rows of the scope (key ``repeats`` of the file).
    """

    id: str
    statement: str
    scope: str
    parts: tuple[Part, ...] = ()
    source: str = ""
    combine: Literal["all", "any"] = "all"
    ties: int = 0
    reason: str = ""
    cost: str = ""
    counterpart: str = ""
    opposite: str = ""
    related: str = ""
    here: str = ""
    note: str = ""
    repeats: Repeats | None = None

    def __post_init__(self) -> None:
        if not self.parts and not self.reason:
            raise SettingError("reason", "a claim without parts needs a reason why it is not decided")


@dataclass(frozen=True)
class Finding:
    """The outcome of one part with the numbers behind it."""

    outcome: Outcome
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, the findings of its parts, and the measured and unmeasured rows that it names.

    Attributes:
        chance: Whether the verdict could be one of the false discoveries among the comparisons that were decided with
            it: it would not stand if only findings counted that survive the correction of Benjamini and Hochberg.
    """

    claim: Claim
    outcome: Outcome
    findings: tuple[Finding, ...]
    rows: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    chance: bool = False


def load_claims(path: str | Path) -> list[Claim]:
    """Reads ``claims.yaml``: a list under ``claims``; ``for: {name: [values]}`` repeats a part, ``{name}`` is replaced.

    The key ``repeats`` of the file gives the scatter of repeated rows by scope.

    Raises:
        UserError: Missing file, unknown key, wrong type or an id used twice (file, claim and key are named).
    """
    given = load_yaml(path).get("repeats", {})
    if not isinstance(given, dict):
        raise UserError(path, "repeats: must map scopes to std (by metric) and rows")
    repeats = {scope: from_mapping(Repeats, entry, f"{path}: repeats.{scope}") for scope, entry in given.items()}
    claims: list[Claim] = []
    for where, entry in listed_entries(path, "claim", "id, statement, scope and parts"):
        claim = from_mapping(Claim, {**entry, "parts": _repeated(entry.get("parts", []), where)}, where)
        claims.append(dataclasses.replace(claim, repeats=repeats.get(claim.scope)))
    return claims


def _repeated(parts: Any, where: str) -> list[Any]:
    if not isinstance(parts, list):
        raise UserError(f"{where}.parts", "must be a list")
    result = []
    for number, part in enumerate(parts):
        values = part.get("for") if isinstance(part, dict) else None
        if values is None:
            result.append(part)
            continue
        if not isinstance(values, dict) or not all(isinstance(v, list) and v for v in values.values()):
            raise UserError(f"{where}.parts[{number}].for", "must map names to lists of values")
        body = {key: value for key, value in part.items() if key != "for"}
        for choice in product(*values.values()):
            result.append(_filled(body, dict(zip(values, choice))))
    return result


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
