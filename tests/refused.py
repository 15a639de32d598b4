"""A command in this process, and the one line in which something is refused."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sida.errors import UserError
from sida.workflow.cli import main

#: Most seconds of processor time until something is refused, on a busy machine, too. A child has a limit of memory
#: of its own (tests/files/test_convert.py).
MOST_SECONDS = 30


def command(*arguments: object) -> str:
    """Runs ``sida`` with arguments in this process; returns what it printed, which is printable.

    Raises:
        UserError: It ended with its one error line.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code  # of argparse
    assert all(line.isprintable() for text in (out, err) for line in text.getvalue().splitlines())
    if status == 0:
        return out.getvalue()
    # Lines about progress or usage may precede the one that ends.
    lines = err.getvalue().splitlines()
    assert status in (1, 2)
    assert [line for line in lines if "error: " in line] == lines[-1:]
    raise UserError("", lines[-1].partition("error: ")[2])


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


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """The line in which a call is refused soon."""
    # Of this process and of its children, which have ended; the last is the time of the clock.
    begin = sum(os.times()[:4])
    line = str(refused("", call, *arguments))
    assert sum(os.times()[:4]) - begin < MOST_SECONDS
    return line


def content_refused(path: Path, content: bytes, reason: str, read: Callable[[Path], object]) -> None:
    """Checks that a file with this content is refused for this reason, and that nothing lies beside it then."""
    path.write_bytes(content)
    before = sorted(path.parent.iterdir())
    with refusing(reason, re.escape(str(path))):
        read(path)
    assert sorted(path.parent.iterdir()) == before
