"""Signals of programs that tests start."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """For ``preexec_fn``: SIGINT ends the program, also where the tests themselves were started in the background.

    What a script starts in the background inherits that it is ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
