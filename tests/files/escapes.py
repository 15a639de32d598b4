"""Readers that do what a file would try which took over its child."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def recurse() -> None:
    recurse()


def descriptors() -> list[int]:
    """Open descriptors beside input, output and the three of every process; none is a fault."""
    others = []
    for number in range(300):
        try:
            os.fstat(number)
            others.append(number)
        except OSError:
            pass
    if len(others) <= 5:
        raise OSError(1, "none")
    return others


TRIES: dict[str, Callable[[], Any]] = {
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list a folder": lambda: os.listdir("/"),
    "write a file": lambda: os.open("/tmp/escaped", os.O_CREAT | os.O_WRONLY),
    "remove a file": lambda: os.unlink("/etc/hostname"),
    "make a folder": lambda: os.mkdir("/tmp/escaped"),
    "start a program": lambda: subprocess.run(["/bin/true"], check=True),
    "become a program": lambda: os.execv("/bin/true", ["true"]),
    "start a process": lambda: os.fork() or os._exit(0),
    "open a connection": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "kill the parent": lambda: os.kill(os.getppid(), 9),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "limit the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0)),
    "pin the parent to a core": lambda: os.sched_setaffinity(os.getppid(), {0}),
    "have the kernel signal the parent": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid()),
    "import a module": lambda: __import__("wave"),
    "see the environment": lambda: {**os.environ}["SECRET"],
    "use another descriptor": descriptors,
}
#: Ends of a child, and what is said of them.
ENDS: dict[str, tuple[Callable[[], Any], str]] = {
    "take memory": (lambda: np.ones(1 << 30), "more than 768 MiB of memory"),
    "take time": (lambda: sum(itertools.repeat(1)), "more than 1 s of processor time"),
    "wait": (lambda: time.sleep(1e6), "not read within 3 s"),
    "die as a library may": (os.abort, "its reader ended with SIG"),
    "crash": (lambda: ctypes.string_at(0), "its reader ended with SIG"),
    "recurse": (recurse, "nested too deeply"),
}


def do(stream: Any, out: Any, name: str) -> None:
    """Tries it, or ends so."""
    (TRIES.get(name) or ENDS[name][0])()


def fill(stream: Any, out: Any, size: int) -> None:
    """Writes more and more."""
    out.stream("x", itertools.repeat(bytes(size)))


def lie(stream: Any, out: Any, text: str) -> None:
    """Writes a text as the whole file."""
    out.restart()
    out._file.write(text.encode("latin-1"))
    out._file.flush()
    os._exit(0)


def tell(stream: Any, out: Any, *args: Any) -> Any:
    """Returns the file's content, in a mapping, and its arguments; writes arrays."""
    for name, array in {"empty": np.zeros((0, 3)), "big": np.arange(3, dtype=">i4"), "one": np.array(2.5)}.items():
        out.add(name, array)
    return {"content": stream.read().decode(), "args": args, "infinite": float("inf")}
