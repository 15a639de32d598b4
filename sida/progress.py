"""Lines about progress on a terminal, with rate and time left."""

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


def visible(text: str) -> str:
    """Text with escapes in place of characters without a glyph, which a terminal may obey; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say(line: str, stream: TextIO | None = None) -> None:
    """Prints a line for people, to standard error by default.

    A line that cannot be written (the reader was killed, the disk is full) is dropped, and the work continues. Text and
    line end are written in one call: lines of processes that share an unbuffered terminal must not mix.

    Args:
        line: Text without a line end.
        stream: Target. Results of a command go to standard output instead, by ``print``.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:
        # The process was started with standard error closed.
        return
    with contextlib.suppress(OSError):
        stream.write(f"{visible(line)}\n")
        stream.flush()


class Progress:
    """Prints ``[stage] 12.0/40.0 kimg  30 %  342 img/s  1m22s left  fd 3.9`` at most once per interval.

    Args:
        stage: What is running, e.g. ``"distill sida-a1.0"``.
        total: Number of units of the whole job.
        unit: Name of the unit, e.g. ``"img"``.
        done: Units done before this process started (a resumed run). The rate leaves them out.
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
        """Reports the number of finished units, with a few named numbers."""
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
