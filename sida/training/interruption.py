"""Signals during a training: SIGINT ends it, SIGTERM and SIGUSR1 preempt it; its state is written first."""

from __future__ import annotations

import enum
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from sida.errors import Preempted


class StopRequest(enum.IntEnum):
    """Request to a process, answered between two iterations.

    Processes that train together agree on the maximum of their requests.

    Attributes:
        NONE: No request.
        SAVE: Write a state.
        MAKE_ROOM: Write a state and end, to be started again later (:class:`sida.errors.Preempted`).
        STOP: Write a state and end (``KeyboardInterrupt``).
    """

    NONE = 0
    SAVE = 1
    MAKE_ROOM = 2
    STOP = 3

    def enforce(self) -> None:
        """Raises the exception that ends the process, if the request asks for it."""
        if self is StopRequest.STOP:
            raise KeyboardInterrupt
        if self is StopRequest.MAKE_ROOM:
            raise Preempted


_MEANING = {
    signal.SIGINT: StopRequest.STOP,
    signal.SIGTERM: StopRequest.MAKE_ROOM,
    signal.SIGUSR1: StopRequest.MAKE_ROOM,
}
#: A workflow forwards the same Ctrl-C more than once; only a Ctrl-C after this many seconds ends the process at once.
_PATIENCE = 5.0


class Interruption:
    """Context manager that turns signals into a stop request; a second Ctrl-C, seconds later, acts at once.

    A scheduler may send several signals while a large state is written, so SIGTERM and SIGUSR1 never act at once.

    Attributes:
        request: ``NONE``, ``MAKE_ROOM`` or ``STOP``.
    """

    def __init__(self) -> None:
        self.request = StopRequest.NONE
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Only the main thread can set handlers in Python; in other threads signals keep their default handling.
        if threading.current_thread() is threading.main_thread():
            for number in _MEANING:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises KeyboardInterrupt (or Preempted, which is one) if the process was asked to end."""
        self.request.enforce()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        insisted = self.request is not StopRequest.NONE and time.monotonic() - self._since > _PATIENCE
        if insisted and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.request is StopRequest.NONE:
            self._since = time.monotonic()
        self.request = max(self.request, _MEANING[signal.Signals(number)])
