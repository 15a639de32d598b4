"""Progress for people: one short line now and then, with rate and time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import TextIO


def duration(seconds: float) -> str:
    """Formats seconds as ``45s``, ``3m05s`` or ``2h07m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def say(line: str, stream: TextIO | None = None) -> None:
    """One line for the person who watches, if anyone does.

    Work goes on where it cannot be written: whoever read it has gone (a killed workflow), or the disk of a log is full.
    It is written at once with its end: where Python does not buffer (``PYTHONUNBUFFERED``, as in the Makefile),
    ``print`` writes them one after the other, and lines of processes that share a terminal run into each other.

    Args:
        line: Without its end.
        stream: Where to; standard error by default. What a command results in goes to standard output, by ``print``.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:
        # Started with a closed one.
        return
    with contextlib.suppress(OSError):
        stream.write(f"{line}\n")
        stream.flush()


class Progress:
    """Prints ``[stage] 12.0/40.0 kimg  30 %  342 img/s  1m22s left  fd 3.9`` at most once per interval.

    Args:
        stage: What is running, e.g. ``"distill sida-a1.0"``.
        total: Number of units of the whole job.
        unit: Name of the unit, e.g. ``"img"``.
        done: Units that were done before this process started (a resumed run); they do not count for the rate.
        interval: Seconds between two lines.
        stream: Where to print; standard error by default.
    """

    def __init__(
        self,
        stage: str,
        total: float,
        unit: str = "img",
        done: float = 0,
        interval: float = 10,
        stream: TextIO | None = None,
    ) -> None:
        self.stage, self.total, self.unit, self.interval = stage, total, unit, interval
        self._stream = stream if stream is not None else sys.stderr
        self._start_done = self._done = done
        self._start = self._last = time.monotonic()

    def update(self, done: float, facts: Mapping[str, float] | None = None, force: bool = False) -> None:
        """Reports that ``done`` units are finished in all, with a few named figures."""
        self._done = done
        moment = time.monotonic()
        if not force and moment - self._last < self.interval:
            return
        self._last = moment
        say(self.line(facts), self._stream)

    def line(self, facts: Mapping[str, float] | None = None) -> str:
        """The current line, without printing it."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._start_done) / elapsed
        left = duration((self.total - self._done) / rate) + " left" if rate > 0 else "starting"
        share = 100 * self._done / self.total if self.total else 100
        parts = [f"[{self.stage}]", f"{self._done:,.0f}/{self.total:,.0f} {self.unit}", f"{share:.0f} %"]
        parts += [f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s", left]
        parts += [f"{name} {value:.4g}" for name, value in (facts or {}).items()]
        return "  ".join(parts)
