"""Processes that train together: stop requests by signals, and the operations that connect them.

Each process works on its part of every batch; rank 0 writes and prints. SIGINT ends a training, SIGTERM and SIGUSR1
preempt it; its state is written first.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

from sida.errors import EXIT_RETRY, PassingError, Preempted, UserError
from sida.late import torch
from sida.machine import process_rank

T = TypeVar("T")
#: Timeouts: within a step, and while rank 0 works alone (for example, reads a state).
STEP_TIMEOUT, FIRST_TIMEOUT = timedelta(minutes=30), timedelta(hours=2)
#: Key-value store shared by the ranks while they are joined.
STORE: Any = None
#: Number of Linux's option that has a process receive a signal when its parent ends.
_PR_SET_PDEATHSIG = 1


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
        """Raises KeyboardInterrupt (or Preempted, which is one) if the request ends the process."""
        if self is StopRequest.STOP:
            raise KeyboardInterrupt
        if self is StopRequest.MAKE_ROOM:
            raise Preempted


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
        # Python sets signal handlers in the main thread only; in other threads signals keep their default handling.
        if threading.current_thread() is threading.main_thread():
            signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
            self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.request:
            self._since = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _PATIENCE:
            raise KeyboardInterrupt
        self.request = max(self.request, StopRequest.STOP if number == signal.SIGINT else StopRequest.MAKE_ROOM)


class RankLostError(PassingError):
    """Another process has ended or does not answer; the last state is intact, and the same command resumes."""

    status = EXIT_RETRY


class Ranks:
    """The processes that train together, seen from this process, or a single process.

    If a rank dies, operations of the others raise :class:`RankLostError`.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._patient = torch.distributed.new_group(backend="gloo", timeout=FIRST_TIMEOUT) if world_size > 1 else None

    def add_up(self, tensor: torch.Tensor) -> None:
        """Sums a tensor over all ranks, in place."""
        if self.world_size > 1:
            self._together(torch.distributed.all_reduce, tensor)

    def average(self, tensor: torch.Tensor) -> None:
        """Averages a tensor over all ranks, in place."""
        if self.world_size > 1:
            self.add_up(tensor)
            tensor.div_(self.world_size)

    def agree(self, request: T) -> T:
        """Returns the maximum of all ranks' requests (``IntEnum`` or bool)."""
        if self.world_size == 1:
            return request
        value = torch.tensor(int(request))  # type: ignore[call-overload]
        self._together(torch.distributed.all_reduce, value, op=torch.distributed.ReduceOp.MAX)
        return type(request)(int(value))  # type: ignore[call-arg]

    def from_first(self, task: Callable[[], T]) -> T:
        """Runs the task on rank 0 while the others wait; returns its result on all ranks."""
        result: list[Any] = [None if self.rank else task()]
        if self.world_size > 1:
            self._together(torch.distributed.broadcast_object_list, result, src=0, group=self._patient)
        value: T = result[0]
        return value

    def gather(self, value: T) -> list[T]:
        """Returns all ranks' values in order on rank 0, and an empty list on the others; for several ranks."""
        values = None if self.rank else [value] * self.world_size
        self._together(torch.distributed.gather_object, value, values, dst=0, group=self._patient)
        return values or []

    def _together(self, operation: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Does an operation of all processes.

        Raises:
            RankLostError: Another process does not take part.
        """
        try:
            operation(*args, **kwargs)
        except RuntimeError as error:
            end = f"has ended or does not answer ({_reason(error)}); the last kept state is intact"
            fault = f"another of the {self.world_size} processes of this training {end}"
            raise RankLostError("", fault, "run the same command again to resume") from None


#: A single process.
ALONE = Ranks()


@contextlib.contextmanager
def joined(device: torch.device, facts: object = None) -> Iterator[Ranks]:
    """Context that joins the processes started together; yields :data:`ALONE` for a single process.

    Args:
        device: Device of this process. Its kind decides the backend: gloo for CPUs, nccl for GPUs.
        facts: Facts that must be equal in all processes.

    Raises:
        UserError: The other processes cannot be reached, or the facts of one differ from rank 0's (raised in all).
    """
    global STORE
    rank, world_size, _ = process_rank()
    if world_size == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        STORE, _, _ = next(rendezvous("env://", rank, world_size, timeout=STEP_TIMEOUT))
        torch.distributed.init_process_group(
            backend, store=STORE, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT
        )
        ranks = Ranks(rank, world_size)
    except (RuntimeError, ValueError) as error:
        fault = f"the {world_size} processes of this training cannot reach each other ({_reason(error)})"
        raise RankLostError("", fault, "start them again") from None
    if ranks.agree(facts != ranks.from_first(lambda: facts)):
        fault = "the processes of this training have different settings, files or code"
        raise UserError("", fault, "give all processes the same")
    yield ranks
    # Skipped after an error, because the others may never answer.
    torch.distributed.destroy_process_group()
    STORE = None


def _reason(error: Exception) -> str:
    """First sentence of a backend's message, without positions in its source code."""
    text = re.sub(r"\[\S*/\S*\] *", "", str(error)).strip()
    return text.split("\n")[0].split(". ")[0][:160] or type(error).__name__


@contextlib.contextmanager
def rank_0_output() -> Iterator[None]:
    """Context in which only rank 0 prints; the first rank that fails reports.

    Raises:
        SystemExit: Replaces the error in ranks that do not report.
    """
    rank, world_size, _ = process_rank()
    if world_size == 1:
        yield
        return
    with contextlib.suppress(OSError, AttributeError):
        # Otherwise a rank would outlive a killed launcher and keep its device busy.
        ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        if rank:
            sys.stdout = sys.stderr = nowhere
        try:
            yield
        except BaseException as error:
            if _reports(rank):
                raise
            raise SystemExit(getattr(error, "status", 1)) from None
        finally:
            sys.stdout, sys.stderr = streams


def _reports(rank: int) -> bool:
    """Whether this rank is the first that fails; before the ranks are joined, whether it is rank 0."""
    if STORE is None:
        return rank == 0
    with contextlib.suppress(RuntimeError):
        return int(STORE.add("failures", 1)) == 1
    return True
