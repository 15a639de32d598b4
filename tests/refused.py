"""What a user is told, in one line, when something is refused."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sida.errors import UserError


@contextlib.contextmanager
def refusing(*patterns: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """What is done within is refused by one line in which each pattern is found."""
    with pytest.raises(UserError) as caught:
        yield caught
    line = str(caught.value)
    assert "\n" not in line
    for pattern in patterns:
        assert re.search(pattern, line), f"no {pattern!r} in {line!r}"


def refused(told: str, call: Callable[..., Any], *arguments: Any, **settings: Any) -> UserError:
    """The error of a call that is refused in one line, which ``told`` matches."""
    with refusing(told) as caught:
        call(*arguments, **settings)
    return caught.value
