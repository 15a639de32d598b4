"""How tests read files of strangers: a command in this process, and the one line with which something is refused."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable

from sida.errors import UserError

LONGEST_MESSAGE = 2500
#: Most seconds until something is refused. The memory of a child is bounded by its limit (tests/files/test_fence.py).
MOST_SECONDS = 30


class FaultError(AssertionError):
    """A case that did what it may not."""


def command(program: str, *arguments: object) -> str:
    """Runs ``sida`` with arguments in this process; returns what it printed.

    Raises:
        UserError: It ended with its one error line.
        FaultError: It printed something that is not printable, or ended in another way.
    """
    from workflow.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code  # of argparse
    for line in [*out.getvalue().splitlines(), *err.getvalue().splitlines()]:
        if not line.isprintable():
            raise FaultError(f"printed {line[:300]!r}")
    if status == 0:
        return out.getvalue()
    # Lines about progress or usage may precede the one that ends.
    *before, last = err.getvalue().splitlines() or [""]
    if status not in (1, 2) or any("error: " in line for line in before) or "error: " not in last:
        raise FaultError(f"status {status} with {err.getvalue()!r}")
    raise UserError("", last.partition("error: ")[2])


def refused(function: Callable[..., object], *arguments: object) -> str:
    """The one short line with which arguments are refused, soon and in little memory."""
    begin = time.monotonic()
    try:
        function(*arguments)
    except UserError as error:
        text = str(error)
    else:
        raise FaultError(f"{arguments} is taken")
    assert text
    assert text.isprintable()
    assert len(text) <= LONGEST_MESSAGE
    assert time.monotonic() - begin < MOST_SECONDS
    return text
