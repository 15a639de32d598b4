"""What a user is told when something is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sida.errors import UserError


def refused(told: str, call: Callable[..., Any], *arguments: Any, **settings: Any) -> UserError:
    """The error of a call that is refused in one line, which ``told`` matches."""
    with pytest.raises(UserError, match=told or None) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return caught.value
