"""A training's processes: signals, and several processes on one machine.

SIGINT ends a training, SIGTERM and SIGUSR1 preempt it; its state is written first.

``torchrun`` also starts processes on several machines, but its exit status is always 1 after a failure, it does not
forward SIGUSR1, and it adds a report to their output.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

from sida.errors import EXIT_RETRY, Preempted


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


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: Seconds that the other processes have to end, for example to write a state, after one has failed.
GRACE = 120.0
#: Environment variable with the descriptors of open files that reserve this job's devices.
HELD = "SIDA_HELD_FILES"


def run_together(command: Sequence[str], count: int) -> int:
    """Runs a command in several processes that train together, each with its ``RANK``.

    Args:
        command: Program and arguments, the same for all processes.
        count: Number of processes.

    Returns:
        0 if all processes end with 0; else the smallest positive status, or :data:`sida.errors.EXIT_RETRY` if signals
        ended all that failed.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # The store outlives the processes, so that the first to fail can report it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
    # Open files reserve devices (workflow.launch): ranks that outlive this process keep their reservation.
    held = [int(number) for number in os.environ.get(HELD, "").split(",") if number]
    children: list[subprocess.Popen[bytes]] = []
    with _passed_on(children):
        try:
            for rank in range(count):
                here = {name: str(value) for name, value in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()}
                children.append(subprocess.Popen(command, env={**os.environ, **here}, pass_fds=held))
            _wait(children)
        finally:
            for child in children:
                child.kill()
                child.wait()
    statuses = [child.returncode for child in children]
    # The smallest status is nearest to the cause: processes that only lost another process return EXIT_RETRY.
    return min((status for status in statuses if status > 0), default=EXIT_RETRY if any(statuses) else 0)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits until all processes have ended, or one has failed and the grace time of the others is over."""
    end: float | None = None
    while any(child.poll() is None for child in children):
        if end is None and any(child.returncode for child in children):
            end = time.monotonic() + GRACE
        if end is not None and time.monotonic() > end:
            return
        time.sleep(0.05)


@contextlib.contextmanager
def _passed_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Context that forwards signals to the child processes."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
