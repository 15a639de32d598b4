"""What a file that took over its reader would try; a reader for the child, as no file can bring one."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def _fork() -> None:
    if not os.fork():
        os._exit(0)


TRIES: dict[str, Callable[[], Any]] = {
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "list a folder": lambda: os.listdir("/"),
    "write a file": lambda: os.open("/tmp/escaped", os.O_CREAT | os.O_WRONLY),
    "remove a file": lambda: os.unlink("/etc/hostname"),
    "make a folder": lambda: os.mkdir("/tmp/escaped"),
    "start a program": lambda: subprocess.run(["/bin/true"], check=True),
    "become a program": lambda: os.execv("/bin/true", ["true"]),
    "start a process": _fork,
    "open a connection": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "kill the parent": lambda: os.kill(os.getppid(), 9),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "import a module": lambda: __import__("wave"),
    "see the environment": lambda: {**os.environ}["SECRET"],
    "use another descriptor": lambda: [os.fstat(number) for number in (5, 6, 7, 8)],
}


class Escapes:
    """Methods by what they do."""

    def try_to(self, files: list[Any], name: str) -> tuple[Any, dict[str, np.ndarray]]:
        """Whether it worked."""
        try:
            TRIES[name]()
        except (OSError, ImportError, KeyError, ValueError, subprocess.SubprocessError) as error:
            return f"{type(error).__name__}", {}
        return "it worked", {}

    def take_memory(self, files: list[Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """Too much."""
        return None, {"x": np.ones(1 << 30)}

    def take_time(self, files: list[Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """For ever."""
        while True:
            pass

    def wait(self, files: list[Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """For ever, without work."""
        while True:
            sys.stdin.read() if files else __import__("time").sleep(1)

    def drip(self, files: list[Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """Answers one byte after the other, for ever."""
        line = json.loads(sys.argv[1])[-1]
        os.write(line, struct.pack("<q", 1 << 20))
        while True:
            os.write(line, b" ")
            __import__("time").sleep(0.2)

    def die(self, files: list[Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """As a crash in a library does."""
        os.abort()

    def recurse(self, files: list[Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """Without end."""
        return self.recurse(files)

    def say(self, files: list[Any], value: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """Says what it is told to."""
        return value, {}

    def lie(self, files: list[Any], kind: str, shape: list[int]) -> Any:
        """Claims an array that is not there."""
        from sida.files import fenced

        text = json.dumps({"value": None, "arrays": {"x": [kind, shape]}}).encode()
        fenced._answer = lambda found: (text, [])
        return None, {}
