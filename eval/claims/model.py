"""Claims as data (``studies/papers/claims.yaml``): a statement, its source and the rules that decide it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from eval.results.sheet import SELECTABLE, listed_entries
from sida.config.registry import Registry, RegistryEntry
from sida.config.settings import Range, Variants, from_mapping, load_yaml
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
class Finding:
    """The outcome of a comparison with the numbers behind it."""

    outcome: Outcome
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """The size of an effect.

    Attributes:
        what: Name of the quantity, such as ``ratio of recall``.
        value: Its value.
        signed: Whether texts show the sign of positive values, too.
        text: The value in words; empty for a number that is shown with its interval.
    """

    what: str
    value: float
    signed: bool = True
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A comparison of a claim: settings of its rule, and the decision by them; a class for each rule of :data:`RULES`.

    Attributes:
        rule: Name of the rule.
    """

    #: The rule in words, for pages.
    text: ClassVar[str] = ""
    #: Words for the numbers of a finding that say how large the effect is; the first number that is there counts.
    effects: ClassVar[Mapping[str, str]] = {}
    rule: str

    @property
    def operands(self) -> dict[str, Operand]:
        """Operands by key."""
        return {key: value for key, value in vars(self).items() if isinstance(value, Operand)}

    @property
    def measured(self) -> str:
        """Metric that the rule takes from measurements; empty for a rule that takes other numbers."""
        return ""

    @property
    def subject(self) -> str:
        """Name of what the rule compares, for :attr:`effects`."""
        return ""

    @property
    def facts(self) -> Mapping[str, tuple[str, ...]]:
        """Facts that the rule reads, by analysis of the preset."""
        return {}

    def decide(self, evidence: Any, where: str) -> Finding:
        """Decides the comparison.

        Args:
            evidence: Measurements, training logs and published numbers (:class:`eval.claims.evidence.Evidence`).
            where: Place of the comparison, for errors.

        Raises:
            NotMeasuredError: Data are missing.
            UserError: An unknown published number, or conditions that match several runs.
        """
        raise NotImplementedError

    def effect(self, numbers: Mapping[str, Any]) -> Size | None:
        """How large the effect behind the numbers of a finding is, if they say it."""
        for key, what in self.effects.items():
            value = numbers.get(key)
            if isinstance(value, (int, float)) and math.isfinite(value):
                # Runs that never reach a level leave a bound: "ratio of images at most".
                what = f"{what.format(self.subject)} {numbers.get('censored', '')}".rstrip()
                return Size(what, value, signed=key not in ("ratio", "rise", "fit"))
        return None


@dataclass(frozen=True, kw_only=True)
class Measured(Rule):
    """A rule about a metric of a generator.

    Attributes:
        metric: Key of the metric.
        a: The generator that is claimed to be better (faster, equal to the published number).
        across: Why operands may be compared although their values are of other identities (protocol, images,
            reference); the evidence then names both. Without it such values are not compared.
    """

    effects = {"gain": "{}"}
    metric: str = "fid"
    a: Operand
    across: str = ""

    @property
    def measured(self) -> str:
        """The metric."""
        return self.metric

    @property
    def subject(self) -> str:
        """The metric."""
        return self.metric

    @property
    def compared(self) -> dict[str, Operand]:
        """Operands whose values must be comparable."""
        return self.operands


#: Rules by name.
RULES: Registry[RegistryEntry] = Registry(
    "claim rule",
    "eval.claims.model:Rule",
    {
        "EQ": RegistryEntry("eval.claims.rules:EqualRule"),
        "LT": RegistryEntry("eval.claims.rules:LessRule"),
        "LTQ": RegistryEntry("eval.claims.rules:QuotedRule"),
        "TRAIN": RegistryEntry("eval.claims.seeds:TrainRule"),
        "SPEED": RegistryEntry("eval.claims.curves:SpeedRule"),
        "COST": RegistryEntry("eval.claims.costs:CostRule"),
        "REACHES": RegistryEntry("eval.claims.curves:ReachesRule"),
        "DIVERGES": RegistryEntry("eval.claims.curves:DivergesRule"),
        "STABLE": RegistryEntry("eval.claims.curves:StableRule"),
        "TREND": RegistryEntry("eval.claims.seeds:TrendRule"),
        "LAW": RegistryEntry("eval.claims.seeds:LawRule"),
        "SHAPE": RegistryEntry("eval.claims.curves:ShapeRule"),
        "SPREAD": RegistryEntry("eval.claims.seeds:SpreadRule"),
        "RATIO": RegistryEntry("eval.claims.rules:RatioRule"),
        "FACT": RegistryEntry("eval.claims.seeds:FactRule"),
        "NEAR": RegistryEntry("eval.claims.rules:NearRule"),
        "NONE": RegistryEntry("eval.claims.rules:NoRule"),
    },
)
R = TypeVar("R", bound=Rule)
#: A comparison of a claim; the rule determines the settings.
AnyRule = Annotated[Rule, Variants("rule", lambda: {name: rule.load() for name, rule in RULES.items()}, RULES.find)]


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
    parts: tuple[AnyRule, ...] = ()
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

    def named_parts(self, kind: type[R]) -> Iterator[tuple[str, str, R]]:
        """Comparisons by one class of rules: name for readers (``ID``, ``ID/2``), place for errors, comparison."""
        for number, part in enumerate(self.parts):
            if isinstance(part, kind):
                yield f"{self.id}/{number + 1}" if number else self.id, f"{self.id}.parts[{number}]", part


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
