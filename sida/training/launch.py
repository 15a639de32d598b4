"""Starting the processes that train together on one machine, passing signals on, and ending with their exit status.

``torchrun`` starts them too, and on several machines; but it ends with 1 whatever they end with, knows no SIGUSR1, and
writes a report of its own behind their line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from sida.errors import EXIT_RETRY

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
#: Seconds that the others have to end by themselves after one has failed: to write a state, say.
GRACE = 120.0
#: Environment variable with the numbers of open files that keep this job's devices.
HELD = "SIDA_HELD_FILES"


def run_together(command: Sequence[str], count: int) -> int:
    """Runs a command in so many processes that find each other, each with its ``RANK``.

    Args:
        command: Program and arguments, the same for all.
        count: Number of processes.

    Returns:
        0 if all ended with 0; else the status of one that could still speak, or :data:`sida.errors.EXIT_RETRY`.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # It outlives each of them, so that whoever fails first can say so.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
    # Who shares out devices holds them by open files (workflow.launch): ranks that outlive this process keep theirs.
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
    # The smallest is nearest to the cause: those that lost another one ask to be started again.
    return min((status for status in statuses if status > 0), default=EXIT_RETRY if any(statuses) else 0)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Returns when all have ended, or one has failed and the others had their time."""
    end: float | None = None
    while any(child.poll() is None for child in children):
        if end is None and any(child.returncode for child in children):
            end = time.monotonic() + GRACE
        if end is not None and time.monotonic() > end:
            return
        time.sleep(0.05)


@contextlib.contextmanager
def _passed_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within it signals go to the children, who know what to do."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
