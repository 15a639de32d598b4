"""Faults that are told in one line."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from sida.errors import UserError


@contextlib.contextmanager
def refused(*patterns: str) -> Iterator[None]:
    """What is done within is refused by one line in which each pattern is found."""
    with pytest.raises(UserError) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line
    for pattern in patterns:
        assert re.search(pattern, line), f"no {pattern!r} in {line!r}"
