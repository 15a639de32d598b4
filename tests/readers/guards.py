"""What holds a case of the fuzzing: processor time, memory, and what Python's audit events tell (PEP 578)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: Address space above what the process has: the machine's safety, not the bound of a reader.
ROOM = 4 << 30
_NEVER = {
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.kill",
    "pickle.find_class", "ctypes.dlopen", "socket.connect", "socket.getaddrinfo",
}  # fmt: skip
#: Events whose paths must lie in the case's own folder: the event and how many of its arguments are paths.
_CHANGING = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "shutil.rmtree": 1, "shutil.move": 2,
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_watching: list[tuple[str, set[str], list[str]]] = []


class TooLongError(BaseException):
    """The time of a case is over; no reader's ``except Exception`` catches it."""


@contextlib.contextmanager
def watched(folder: Path, also: Sequence[str] = ()) -> Iterator[list[str]]:
    """Collects what a reader must not do meanwhile, ``also`` these events; writing is allowed below ``folder`` only."""
    seen: list[str] = []
    _watching.append((os.path.realpath(folder) + os.sep, _NEVER | set(also), seen))
    try:
        yield seen
    finally:
        _watching.pop()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    folder, never, seen = _watching[-1]
    if event == "subprocess.Popen" and any("sida.files.fenced" in str(part) for part in args[1]):
        return  # the fence
    if event in never or (event in ("exec", "compile") and not _by_the_library(sys._getframe(1).f_code.co_filename)):
        seen.append(f"{event} {str(args[:1])[:80]}")
    elif event == "open":
        path, _, flags = args
        # A file without a name is opened as its folder (O_TMPFILE).
        if isinstance(flags, int) and flags & _WRITING and not os.path.isdir(path):
            _inside(event, path, folder, seen)
    elif event in _CHANGING:
        for path in args[: _CHANGING[event]]:
            _inside(event, path, folder, seen)


def _by_the_library(file: str) -> bool:
    """Whether a library makes code, as Python's does to import a module or to make a dataclass."""
    return file.startswith("<frozen importlib") or file.startswith(_LIBRARY) or "site-packages" in file


def _inside(event: str, path: Any, folder: str, seen: list[str]) -> None:
    if isinstance(path, int) or path == os.devnull:
        return
    full = os.path.realpath(os.fsdecode(path))
    if not f"{full}{os.sep}".startswith(folder) and "__pycache__" not in full:
        seen.append(f"{event} {full[:120]}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises :class:`TooLongError` after so much processor time."""

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)  # again where a library swallowed it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class MemoryLimit:
    """Within this context the process may take :data:`ROOM` more address space and no more."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ROOM
        highest = self._before[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if highest < 0 else min(limit, highest), highest))

    def __exit__(self, *_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def return_freed_memory() -> None:
    """Gives freed heap back to the kernel; a training in this process keeps it, and reading would hide in it.

    What is kept beyond 1 GiB goes back at any later moment, which would hide as much.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> float:
    """Lets the kernel's peak of resident memory begin anew, where it allows that; returns the memory now, in MB."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
    return peak_memory()


def peak_memory() -> float:
    """Peak of the process's resident memory in MB."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
