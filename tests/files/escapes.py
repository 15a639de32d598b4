"""What a file that took over its reader would try; a reader for the child, as no file can bring one."""

from __future__ import annotations

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


def recurse() -> None:
    recurse()


def drip() -> None:
    """Answers one byte after the other, for ever."""
    line = json.loads(sys.argv[1])[-1]
    os.write(line, struct.pack("<q", 1 << 20))
    while os.write(line, b" "):
        time.sleep(0.2)


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
    "die as a library may": (os.abort, "its reader ended with SIG"),
    "recurse": (recurse, "nested too deeply"),
}


class Escapes:
    """Methods by what they do."""

    def do(self, files: list[Any], name: str) -> tuple[Any, dict[str, np.ndarray]]:
        """Tries it, or ends so."""
        (TRIES.get(name) or ENDS[name][0])()
        return None, {}

    def lie(self, files: list[Any], kind: str, shape: list[int]) -> Any:
        """Claims an array that is not there."""
        from sida.files import fenced

        text = json.dumps({"value": None, "arrays": {"x": [kind, shape]}}).encode()
        fenced._answer = lambda found: (text, [])
        return None, {}
