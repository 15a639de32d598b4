"""Several processes on this machine that train together: their start by torchrun, their place, and their one voice.

Only rank 0 prints; on failure only the first failing rank reports.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from sida.errors import EXIT_RETRY, UserError

#: Key-value store shared by the ranks while they are joined.
STORE: Any = None
#: Number of Linux's option that has a process receive a signal when its parent ends.
_PR_SET_PDEATHSIG = 1
#: Seconds that the processes have to end, for example to write a state, after a signal or after one has failed.
GRACE = 120


def run_together(command: Sequence[str], count: int) -> int:
    """Runs a command in several processes that train together, as ``torchrun`` does.

    ``torchrun`` itself would end with status 1 after any failure, and add a report.

    Args:
        command: Program and arguments, the same for all processes.
        count: Number of processes.

    Returns:
        0 if all processes end with 0; else the smallest positive status, or :data:`sida.errors.EXIT_RETRY` if signals
        ended all that failed. After a signal to this process, which passes it on: 130 (SIGINT) or ``EXIT_RETRY``.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def stop(number: int, frame: FrameType | None) -> None:
        raise SignalException("", signal.Signals(number))

    # Older versions of torchrun do not pass SIGUSR1 on.
    signal.signal(signal.SIGUSR1, stop)
    # The processes say themselves what happened.
    logging.disable()
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE))
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(1, 1, count, DefaultLogsSpecs(logs), str(os.getpid()), max_restarts=0)
        config.rdzv_backend, config.rdzv_endpoint, config.monitor_interval = "c10d", "localhost:0", 0.1
        try:
            elastic_launch(config, command[0])(*command[1:])
        except ChildFailedError as error:
            statuses = [failure.exitcode for failure in error.failures.values()]
            # The smallest status is nearest to the cause: processes that only lost another process return EXIT_RETRY.
            return min((status for status in statuses if status > 0), default=EXIT_RETRY)
        except SignalException as error:
            return 130 if error.sigval == signal.SIGINT else EXIT_RETRY
    return 0


def place() -> tuple[int, int, int]:
    """Returns rank, world size and local rank as set by ``torchrun``, or 0, 1, 0 without it.

    Raises:
        UserError: The environment variables are not numbers, or contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return 0, 1, 0
    try:
        rank, world_size, local_rank = (int(os.environ.get(name, "0")) for name in names)
    except ValueError:
        rank = world_size = local_rank = -1
    if not 0 <= rank < world_size or local_rank < 0:
        given = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise UserError(given, "not what torchrun sets", "start the processes by torchrun, or unset RANK")
    return rank, world_size, local_rank


@contextlib.contextmanager
def rank_0_output() -> Iterator[None]:
    """Context in which only rank 0 prints; the first rank that fails reports, and all ranks exit with its status.

    Raises:
        SystemExit: Replaces the error in ranks that do not report.
    """
    rank, world_size, _ = place()
    if world_size == 1:
        yield
        return
    with contextlib.suppress(OSError, AttributeError):
        # Without its launcher a rank would go on, on a device that others may take.
        ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        if rank:
            sys.stdout = sys.stderr = nowhere
        try:
            yield
        except BaseException as error:
            status = _spoken_for(rank, _status(error))
            if status is not None:
                raise SystemExit(status) from None
            raise
        finally:
            sys.stdout, sys.stderr = streams


def _status(error: BaseException) -> int:
    """Exit status of the command line for an error."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    return int(getattr(error, "status", 130 if isinstance(error, KeyboardInterrupt) else 1))


def _spoken_for(rank: int, status: int) -> int | None:
    """Exit status of the rank that failed before this rank; None if this rank fails first."""
    if STORE is None:
        return status if rank else None
    with contextlib.suppress(RuntimeError):
        if STORE.add("failures", 1) > 1:
            return int(STORE.get("status"))
        STORE.set("status", str(status))
    return None
