"""What signals mean to a training: SIGINT ends it, SIGTERM and SIGUSR1 make room; its state is kept before."""

from __future__ import annotations

import enum
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from sida.errors import Preempted


class Wish(enum.IntEnum):
    """What a process wants between two iterations.

    Processes that train together do what the greatest of their wishes says: a maximum over all of them is agreement.

    Attributes:
        GO_ON: Nothing.
        SAVE: Keep a state.
        MAKE_ROOM: Keep a state and end, to be started again (:class:`sida.errors.Preempted`).
        STOP: Keep a state and end (``KeyboardInterrupt``).
    """

    GO_ON = 0
    SAVE = 1
    MAKE_ROOM = 2
    STOP = 3

    def obey(self) -> None:
        """Raises what ends the process, if anything does."""
        if self is Wish.STOP:
            raise KeyboardInterrupt
        if self is Wish.MAKE_ROOM:
            raise Preempted


_MEANING = {signal.SIGINT: Wish.STOP, signal.SIGTERM: Wish.MAKE_ROOM, signal.SIGUSR1: Wish.MAKE_ROOM}
#: A workflow forwards the same Ctrl-C more than once; only one after this many seconds means 'at once'.
_PATIENCE = 5.0


class Interruption:
    """Context manager that turns signals into a wish; a Ctrl-C much later acts at once, if someone insists.

    A scheduler may send several signals while a large state is written, so none of its own acts at once.

    Attributes:
        wish: ``GO_ON``, ``MAKE_ROOM`` or ``STOP``.
    """

    def __init__(self) -> None:
        self.wish = Wish.GO_ON
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python lets only the main thread set handlers; elsewhere signals keep their meaning.
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
        self.wish.obey()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        insisted = self.wish is not Wish.GO_ON and time.monotonic() - self._since > _PATIENCE
        if insisted and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.wish is Wish.GO_ON:
            self._since = time.monotonic()
        self.wish = max(self.wish, _MEANING[signal.Signals(number)])
