"""Rule BARRIER: the loss barrier between the weights of a teacher and its student."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.claims.evidence import Evidence, NotMeasuredError
from eval.claims.model import Finding, Part
from eval.claims.numbers import decide_gain, decide_range, operand_a, operand_b, show, sides_of
from eval.claims.seeds import by_teacher, seeds_of
from eval.effects.contrast import difference, mean_interval
from eval.results.barriers import LOSSES, barrier
from eval.results.summary import Estimate
from sida.errors import UserError


def barriers(part: Part, evidence: Evidence, where: str) -> Finding:
    """BARRIER: over training seeds the barrier of A lies in the given range, or above the barrier of B."""
    a = operand_a(part)
    names = seeds_of(a, part, evidence, f"{where}.a")
    try:
        return _in_range(part, names, evidence) if part.b is None else _larger(part, names, evidence, where)
    except UserError as reason:
        raise NotMeasuredError(f"{reason}") from None


def _in_range(part: Part, names: Sequence[str], evidence: Evidence) -> Finding:
    blocks = _blocks(part, names, evidence)
    found = mean_interval(blocks)
    claimed = f"above {part.low:g}" if part.high == math.inf else f"{part.low:g} to {part.high:g}"
    claimed = f"at most {part.high:g}" if part.low == -math.inf else claimed
    decided = decide_range(found, part.low, part.high)
    text = f"barrier of {LOSSES[part.metric]} {_shown(blocks, names, evidence)}; {decided.text}, claimed {claimed}"
    return Finding(decided.outcome, text, {"gain": found.value} | decided.numbers)


def _larger(part: Part, names: Sequence[str], evidence: Evidence, where: str) -> Finding:
    others = seeds_of(operand_b(part), part, evidence, f"{where}.b")
    blocks, blocks_b = _blocks(part, names, evidence), _blocks(part, others, evidence)
    effect = difference(blocks, blocks_b)
    decided = decide_gain(effect)
    text = (
        f"barrier of {LOSSES[part.metric]} {_shown(blocks, names, evidence)} against "
        f"{_shown(blocks_b, others, evidence)}; larger by {effect.value:.3g}, {decided.text}"
    )
    numbers = sides_of(_pooled(blocks), _pooled(blocks_b)) | {"gain": effect.value}
    return Finding(decided.outcome, text, numbers | decided.numbers)


def _blocks(part: Part, names: Sequence[str], evidence: Evidence) -> dict[str, list[float]]:
    return by_teacher(names, lambda name: barrier(evidence.curves("barriers", name)[part.metric]), evidence)


def _pooled(blocks: dict[str, list[float]]) -> Estimate:
    return Estimate.of([value for values in blocks.values() for value in values])


def _shown(blocks: dict[str, list[float]], names: Sequence[str], evidence: Evidence) -> str:
    return f"{show(_pooled(blocks))} ({evidence.label(names[0])}; {len(names)} training seeds)"
