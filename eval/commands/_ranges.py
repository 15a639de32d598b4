"""Ranges on the command line."""

from __future__ import annotations

import re

from sida.errors import UserError


def parse_trials(text: str | None, count: int) -> list[int]:
    """Trials from ``"0-9"``, ``"3"`` or ``"0,2,5-7"``; None means all ``count``.

    Raises:
        UserError: Not of that form, empty, or beyond ``count``.
    """
    if text is None:
        return list(range(count))
    trials: list[int] = []
    for part in text.split(","):
        first, last = parse_range(part, "--trials")
        trials += range(first, last + 1)
    if any(trial >= count for trial in trials):
        raise UserError(f"--trials: the protocol has the trials 0-{count - 1}, got '{text}'")
    return sorted(set(trials))


def parse_range(text: str, option: str) -> tuple[int, int]:
    """``"3-7"`` as (3, 7) and ``"3"`` as (3, 3).

    Raises:
        UserError: Not of that form, or backwards.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise UserError(f"{option}: must be a number or a range like 0-9, got '{text}'")
    return int(match[1]), int(match[2] or match[1])
