"""Parameters of tests, some of which only `make test-slow` runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick_but(slow: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Parameters of which some are slow: names, or tuples whose first value is the name."""
    slow, values = {*slow}, [*values]
    assert slow <= {_name(value) for value in values}
    return [pytest.param(*_parts(value), marks=[pytest.mark.slow] * (_name(value) in slow)) for value in values]


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _name(value: Any) -> Any:
    return _parts(value)[0]
