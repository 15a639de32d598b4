"""Rule LAYERS: whether the blocks of a network do most of their work at different noise levels."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

from eval.claims.evidence import Evidence, NotMeasuredError
from eval.claims.model import UNDECIDED, Finding, Outcome, Part
from eval.claims.numbers import operand_a
from eval.effects.contrast import Interval, mean_interval
from eval.results.layers import profiles


def layers(part: Part, evidence: Evidence, where: str) -> Finding:
    """LAYERS: half of the blocks change the output ``factor`` times as much at one noise level as at another.

    More exactly ``factor`` times the ratio that the network has before any training. Two blocks must also change the
    output most at different levels. Every other repeat finds the levels of a block's largest and smallest change, and
    the rest compare them, so that the choice does not count as a difference.
    """
    run = str(operand_a(part).run)
    curves = evidence.curves("layers", run)
    blocks, null = profiles(curves), profiles(curves, untrained=True)
    if not null:
        raise NotMeasuredError(f"no profile of the network of run '{run}' before any training (sida-eval layers)")
    before = {block: max(1.0, _ratio(levels)) for block, levels in null.items()}
    sums = {block: {sigma: sum(found[::2]) for sigma, found in levels.items()} for block, levels in blocks.items()}
    peaks = {block: max(by_level, key=by_level.__getitem__) for block, by_level in sums.items()}

    def gain(block: str, high: float, low: float, factor: float = 1.0) -> Interval:
        pairs = zip(*(blocks[block][sigma][1::2] for sigma in (high, low)))
        return mean_interval({"": [a - factor * b for a, b in pairs]})

    lowest = {block: min(by_level, key=by_level.__getitem__) for block, by_level in sums.items()}
    gains = [gain(block, peaks[block], lowest[block], part.factor * before[block]) for block in blocks]
    varying, steady = sum(one.low > 0 for one in gains), sum(one.high <= 0 for one in gains)
    levels = {sigma: [block for block in blocks if peaks[block] == sigma] for sigma in sorted({*peaks.values()})}
    apart = any(
        gain(a, peaks[a], peaks[b]).low > 0 and gain(b, peaks[b], peaks[a]).low > 0 for a, b in combinations(blocks, 2)
    )
    outcome: Outcome = "supported" if 2 * varying >= len(blocks) and apart else UNDECIDED
    text = (
        f"{varying} of {len(blocks)} blocks of {evidence.label(run)} change the output at least {part.factor:g} times "
        "as much at one noise level as at another, relative to the network before any training (there "
        f"{min(before.values()):.2g} to {max(before.values()):.2g} times); largest change by noise level: "
    ) + "; ".join(f"{sigma:g}: {', '.join(names)}" for sigma, names in levels.items())
    numbers = {"varying": varying, "blocks": len(blocks), "levels": len(levels)}
    return Finding("contradicted" if 2 * steady > len(blocks) or len(levels) == 1 else outcome, text, numbers)


def _ratio(levels: Mapping[float, Sequence[float]]) -> float:
    """Largest by smallest mean change over noise levels; 1 for a block that does nothing."""
    means = [statistics.fmean(changes) for changes in levels.values()]
    return max(means) / min(means) if min(means) > 0 else 1.0
