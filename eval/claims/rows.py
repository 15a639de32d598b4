"""Rows of the sample sheet that claims speak about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from eval.claims.model import Claim, Operand
from eval.results.selection import matching
from eval.results.sheet import Run


def claim_rows(claims: Iterable[Claim], runs: Mapping[str, Run]) -> list[str]:
    """Ids of the rows that claims name, by id or by conditions, in the order of the sheet."""
    named: set[str] = set()
    for claim in claims:
        for operand in _operands(claim):
            if operand.run is not None:
                named.add(operand.run)
            elif operand.where is not None:
                named |= {run.run for run in matching(runs, operand.where)}
    return [name for name in runs if name in named]


def _operands(value: Any) -> Iterator[Operand]:
    """Operands anywhere in a claim: which keys of a part hold one is the model's matter."""
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _operands(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _operands(getattr(value, field.name))
