"""What a file that took over its reader would try; a reader for the child, as no file can bring one."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sida.files.fenced import ANY_ARRAY


def recurse() -> None:
    recurse()


def drip() -> None:
    """Answers one byte after the other, for ever."""
    os.write(line(), struct.pack("<q", 1 << 20))
    while os.write(line(), b" "):
        time.sleep(0.2)


def line() -> int:
    """Descriptor of the line to the parent."""
    return int(json.loads(sys.argv[1])[-1])


def close_and_wait() -> None:
    """Hangs up and lives on."""
    os.close(line())
    time.sleep(1e6)


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
    "raise the limit of processor time": lambda: resource.setrlimit(resource.RLIMIT_CPU, (1 << 20, 1 << 20)),
    "limit the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (0, 0)),
    "see limits of the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE),
    "pin the parent to a core": lambda: os.sched_setaffinity(os.getppid(), {0}),
    "have the kernel signal the parent": lambda: fcntl.fcntl(line(), fcntl.F_SETOWN, os.getppid()),
    "the same by ioctl": lambda: fcntl.ioctl(line(), 0x8901, struct.pack("i", os.getppid())),
    "choose that signal": lambda: fcntl.fcntl(line(), fcntl.F_SETSIG, 9),
    "ask for that signal": lambda: fcntl.fcntl(line(), fcntl.F_SETFL, os.O_ASYNC),
    "the same by ioctl, too": lambda: fcntl.ioctl(line(), 0x5452, struct.pack("i", 1)),
    "take a lease": lambda: fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK),
    "import a module": lambda: __import__("wave"),
    "see the environment": lambda: {**os.environ}["SECRET"],
    "use another descriptor": lambda: [os.fstat(number) for number in (5, 6, 7, 8)],
}
#: Ends of a child, and what is said of them.
ENDS: dict[str, tuple[Callable[[], Any], str]] = {
    "take memory": (lambda: np.ones(1 << 30), "more than 768 MiB of memory"),
    "take time": (lambda: sum(itertools.repeat(1)), "more than 1 s of processor time"),
    "wait": (lambda: time.sleep(1e6), "not read within 3 s"),
    "drip": (drip, "not read within 3 s"),
    "close its line and wait": (close_and_wait, "does not end"),
    "die as a library may": (os.abort, "its reader ended with SIG"),
    "recurse": (recurse, "nested too deeply"),
}


class Escapes:
    """Methods by what they do."""

    FORMS = {"do": (None, {}), "lie": (None, {str: ANY_ARRAY})}

    def do(self, files: list[Any], name: str) -> tuple[Any, dict[str, np.ndarray]]:
        """Tries it, or ends so."""
        (TRIES.get(name) or ENDS[name][0])()
        return None, {}

    def lie(self, files: list[Any], text: str, times: int) -> Any:
        """Answers with a text, of which the part between asterisks is written so many times."""
        from sida.files import fenced

        before, part, after = text.split("*") if "*" in text else (text, "", "")
        fenced._answer = lambda found: (f"{before}{part * times}{after}".encode(), [])
        return None, {}
