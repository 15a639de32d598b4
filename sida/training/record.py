"""Checks of a stored state's record (everything but its tensors) before a run resumes from it.

The hash of a state reveals damage, but a manipulated state can have a right hash. So the values that the loop, the
divergence rules and the results read are checked first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from sida.training.meter import GROUPS, TICK_COUNTS


def is_record(record: Any) -> bool:
    """Whether a record has all values that :class:`sida.training.loop.TrainingLoop` stores, with the right types."""
    if not (isinstance(record, dict) and type(record.get("finished")) is bool and _count(record.get("nimg"))):
        return False
    done, evaluations = record.get("done"), record.get("evaluations")
    return (
        _finite(record)
        and isinstance(done, dict)
        and all(key in done and _optional(_count, done[key]) for key in ("tick", "evaluation", "snapshot"))
        and _list(_tick, record.get("train"))
        and _list(_evaluation, evaluations)
        and _best(record.get("best"), evaluations, record["finished"])
        and _meter(record.get("meter"), begun=done["tick"] != record["nimg"])
        and (not record["finished"] or _published(record.get("metadata")))
    )


def _finite(record: dict[str, Any]) -> bool:
    """Whether all numbers are finite: Python reads 1e999 as an infinity, which JSON cannot represent."""
    try:
        json.dumps(record, allow_nan=False)
    except ValueError:
        return False
    return True


def _number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or (type(value) is int and value.bit_length() < 64)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _optional(kind: Callable[[Any], bool], value: Any) -> bool:
    return value is None or kind(value)


def _list(kind: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(kind, value))


def _by_name(kind: Callable[[Any], bool], value: Any) -> bool:
    """Whether a value is a mapping with printable names."""
    return isinstance(value, dict) and all(name.isprintable() and kind(item) for name, item in value.items())


def _tick(value: Any) -> bool:
    """Whether a value is a line of ``train.jsonl``."""
    return (
        isinstance(value, dict)
        and _count(value.get("nimg"))
        and all(_by_name(lambda item: _optional(_number, item), value.get(group)) for group in GROUPS)
        and all(_count(value.get(name)) for name in TICK_COUNTS if name != "images")
    )


def _evaluation(value: Any) -> bool:
    """Whether a value is a line of ``evaluations.jsonl``; a selection value that is not a number is null."""
    return (
        isinstance(value, dict)
        and _count(value.get("nimg"))
        and (name := _selection(value)) in value
        and _optional(_number, value[name])
    )


def _selection(evaluation: dict[str, Any]) -> str | None:
    """Name of the selection value, or None if it is not a name."""
    name = evaluation.get("selection", "fd")
    return name if isinstance(name, str) and name.isprintable() else None


def _best(value: Any, evaluations: Any, finished: bool) -> bool:
    """Whether a value is that of the best evaluation; None before the end if no evaluation returned a number."""
    names = {name for line in evaluations if line[name := _selection(line)] is not None}
    if value is None:
        return not names and not finished
    return (
        (bool(names) or finished)
        and _by_name(_number, value)
        and _count(value.get("nimg"))
        and all(name in value for name in names)
    )


def _meter(value: Any, begun: bool) -> bool:
    """Whether a value is a meter's state, with counts if the tick has begun."""
    if not (isinstance(value, dict) and _number(value.get("seconds"))):
        return False
    means, counts = value.get("means"), value.get("counts")
    return (
        isinstance(means, dict)
        and isinstance(counts, dict)
        and means.keys() == set(GROUPS)
        and all(_by_name(_mean, group) for group in means.values())
        and _by_name(_count, counts)
        and counts.keys() in ({*TICK_COUNTS}, *([] if begun else [set()]))
    )


def _mean(value: Any) -> bool:
    """Whether a value is a sum with its count."""
    return isinstance(value, list) and len(value) == 2 and _number(value[0]) and _count(value[1])


def _published(value: Any) -> bool:
    """Whether a value is the metadata of a finished run's network."""
    return isinstance(value, dict) and isinstance(value.get("network"), dict)
