"""Rule FACT: facts that no measurement gives, of analyses (:mod:`eval.results.analyses`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.claims.evidence import (
    Evidence,
    NotMeasuredError,
    by_teacher,
    decide_gain,
    decide_range,
    operand_a,
    operand_b,
    seeds_of,
    show,
    sides_of,
)
from eval.claims.model import UNDECIDED, Finding, Outcome, Part
from eval.effects.contrast import difference, mean_interval
from eval.results.summary import Estimate
from sida.errors import UserError


def fact(part: Part, evidence: Evidence, where: str) -> Finding:
    """FACT: a number, or the mean of rows over training seeds, lies in the given range, or A's is larger than B's."""
    if part.a is None:
        return _ratio(part, evidence)
    if part.a.run is not None:
        return _of_row(part, evidence)
    names = seeds_of(operand_a(part), part, evidence, f"{where}.a")
    try:
        return _in_range(part, names, evidence) if part.b is None else _larger(part, names, evidence, where)
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None


def _ratio(part: Part, evidence: Evidence) -> Finding:
    """A number of an analysis without rows, or its ratio to another."""
    texts, values = [], []
    for name in filter(None, (part.fact, part.than)):
        value, about, _, _ = _value(part, name, "", evidence)
        texts.append(f"{about}: {value:.4g}")
        values.append(value)
    found = values[0] / values[1] if part.than else values[0]
    text = "; ".join(texts) + (f"; ratio {found:.4g}" if part.than else "")
    outcome: Outcome = "supported" if part.low <= found <= part.high else "contradicted"
    return Finding(outcome, f"{text}, claimed {_claimed(part)}", {"value": found})


def _of_row(part: Part, evidence: Evidence) -> Finding:
    """A value of one row with the interval that the analysis gives."""
    run = str(operand_a(part).run)
    value, about, low, high = _value(part, part.fact, run, evidence)
    text = f"{about}: {value:.3g} ({evidence.label(run)})"
    text += f", between {low:.3g} and {high:.3g}" if low < high else ""
    outcome: Outcome = "supported" if part.low <= low and high <= part.high else UNDECIDED
    outcome = "contradicted" if high < part.low or low > part.high else outcome
    return Finding(outcome, f"{text}, claimed {_claimed(part)}", {"value": value})


def _in_range(part: Part, names: Sequence[str], evidence: Evidence) -> Finding:
    blocks, about = _blocks(part, names, evidence)
    found = mean_interval(blocks)
    decided = decide_range(found, part.low, part.high)
    text = f"{about} {_shown(blocks, names, evidence)}; {decided.text}, claimed {_claimed(part)}"
    return Finding(decided.outcome, text, {"gain": found.value} | decided.numbers)


def _larger(part: Part, names: Sequence[str], evidence: Evidence, where: str) -> Finding:
    others = seeds_of(operand_b(part), part, evidence, f"{where}.b")
    (blocks, about), (blocks_b, _) = (_blocks(part, some, evidence) for some in (names, others))
    effect = difference(blocks, blocks_b)
    decided = decide_gain(effect)
    text = (
        f"{about} {_shown(blocks, names, evidence)} against {_shown(blocks_b, others, evidence)}; larger by "
        f"{effect.value:.3g}, {decided.text}"
    )
    numbers = sides_of(_pooled(blocks), _pooled(blocks_b)) | {"gain": effect.value}
    return Finding(decided.outcome, text, numbers | decided.numbers)


def _value(part: Part, name: str, run: str, evidence: Evidence) -> tuple[float, str, float, float]:
    """Value of a fact, its description, and the ends of its interval."""
    found, about = evidence.fact(part.of, name, run)
    if found is None:
        raise NotMeasuredError(f"the analysis {part.of} has no {about} with its settings")
    value, low, high = found if isinstance(found, Sequence) else (found, found, found)
    return value, about, low, high


def _blocks(part: Part, names: Sequence[str], evidence: Evidence) -> tuple[dict[str, list[float]], str]:
    blocks = by_teacher(names, lambda name: _value(part, part.fact, name, evidence)[0], evidence)
    return blocks, evidence.fact(part.of, part.fact, names[0])[1]


def _claimed(part: Part) -> str:
    if part.high == math.inf:
        return f"above {part.low:g}" if part.a is not None else f"at least {part.low:g}"
    return f"at most {part.high:g}" if part.low == -math.inf else f"{part.low:g} to {part.high:g}"


def _pooled(blocks: dict[str, list[float]]) -> Estimate:
    return Estimate.of([value for values in blocks.values() for value in values])


def _shown(blocks: dict[str, list[float]], names: Sequence[str], evidence: Evidence) -> str:
    return f"{show(_pooled(blocks))} ({evidence.label(names[0])}; {len(names)} training seeds)"
