"""Shares of the generator's terms in its gradient: terms too small for a training to say much about them.

A training logs the norm of each term's gradient on one micro-batch a tick, as a share of the sum of all terms' norms.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

#: Smallest share of the generator's gradient, as a mean over the first ticks that measure it, without a warning.
LEAST_SHARE = 0.01
#: Number of these ticks.
FIRST_TICKS = 3


def first_shares(ticks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first records of ``train.jsonl`` that have shares of the generator's terms, at most :data:`FIRST_TICKS`."""
    return list(itertools.islice((tick for tick in ticks if "share" in tick), FIRST_TICKS))


def negligible(ticks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean share of each term below :data:`LEAST_SHARE` in :func:`first_shares`; empty until there are enough of them.

    Args:
        ticks: Records of ``train.jsonl``, in order.
    """
    first = first_shares(ticks)
    if len(first) < FIRST_TICKS:
        return {}
    known = {
        name: [share for tick in first if (share := tick["share"].get(name)) is not None] for name in first[-1]["share"]
    }
    means = {name: sum(shares) / len(shares) for name, shares in known.items() if shares}
    return {name: share for name, share in means.items() if share < LEAST_SHARE}


def share_remark(term: str, share: float) -> str:
    """Sentence about a negligible term."""
    effect = f"the term '{term}' has {100 * share:.2g} % of the generator's gradient at first"
    return f"{effect}: the training says little about the term; a larger weight raises its share"
