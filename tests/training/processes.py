"""Processes that train together, forked so that none has to start, and the store that ``torchrun`` would hold for them.

The store's threads live in a process of its own: a process with threads should not fork.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import torch.distributed as dist

from tests.training.toy import fork, wait

PATIENCE = 300.0


@contextlib.contextmanager
def started(task, count, folder):
    """Starts ``task(rank)`` in so many processes; gives their ids. What they print goes to ``<folder>/<rank>.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def hold():
        _store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        time.sleep(10 * PATIENCE)

    def run(rank):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
        os.environ.update({name: str(value) for name, value in place.items()})
        try:
            return task(rank)
        except SystemExit as end:
            return end.code

    agent = fork(hold, folder / "agent.txt")
    children = [fork(lambda rank=rank: run(rank), folder / f"{rank}.log") for rank in range(count)]
    try:
        yield children
    finally:
        for process in (agent, *children):
            # One that hangs must not hold up the tests; one that has been waited for is gone.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def statuses(children):
    """Exit statuses of processes, which are given five minutes."""
    end = time.monotonic() + PATIENCE
    for child in children:
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() < end, "a process hangs"
            time.sleep(0.02)
    return [wait(child) for child in children]


def together(task, count, folder):
    """Exit statuses of processes that run ``task(rank)`` together."""
    with started(task, count, folder) as children:
        return statuses(children)


def said(folder):
    """All lines of all processes but progress and the path of the result."""
    lines = [line for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines()]
    return [line for line in lines if not line.startswith(("[", "/"))]
