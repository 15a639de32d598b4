"""How parts of all figures name rows of the sample sheet, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eval.results.selection import SELECTABLE
from sida.errors import suggestion


def check_pick(spec: object, ways: tuple[str, ...], remedy: str) -> None:
    """Requires that one of the fields picks runs, and that its conditions are on columns of the sample sheet.

    Raises:
        ValueError: ``key: what is wrong``.
    """
    given = [name for name in ways if getattr(spec, name) is not None]
    if len(given) != 1:
        raise ValueError(f"where: {remedy}")
    conditions = getattr(spec, given[0])
    for key in conditions if isinstance(conditions, Mapping) else ():
        if key not in SELECTABLE:
            raise ValueError(f"{given[0]}: the sample sheet has no column '{key}'{suggestion(key, SELECTABLE)}")


@dataclass(frozen=True)
class LineSpec:
    """A horizontal reference line: a measured run, or a published number by its id.

    Attributes:
        where: Conditions on the sample sheet that pick one run.
        first: Conditions of which the first match in the sheet is taken; without a match there is no line.
        start_of: The same, and the line is the run that this one starts from (column ``init``).
        published: Id in ``results/published``.
        optional: Whether ``where`` may match no run; the line is then reported as missing.
    """

    where: Mapping[str, Any] | None = None
    first: Mapping[str, Any] | None = None
    start_of: Mapping[str, Any] | None = None
    published: str | None = None
    label: str | None = None
    colour: Literal["grey", "purple", "green", "red", "cyan"] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        ways = ("where", "first", "start_of", "published")
        check_pick(self, ways, "name a run (where, first or start_of) or a published number, one of them")
