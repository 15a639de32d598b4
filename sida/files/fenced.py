"""The fence: whatever parses a stranger's bytes runs in a child with limits, without secrets, with few system calls.

The child gets open files and hands back JSON and the bytes of arrays. Nothing is pickled between the two: a child that
a file took over could otherwise take over the parent. Such a child can still lie in its answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sida.errors import UserError, located

#: Memory in bytes that a reader may add to what it has after its imports, and processor time in seconds beside that
#: which a file's bytes explain.
MEMORY, SECONDS = 768 << 20, 5.0
#: Seconds by the clock that an answer may take beside twice its processor time.
WAIT = 30.0
#: Bytes of an answer's arrays, and of its text.
RESULT, _MOST_TEXT = 256 << 20, 256 << 20
#: Bytes of the types of numbers in arrays.
_KINDS = {
    "|u1": 1, "|i1": 1, "|b1": 1, "<f2": 2, "<f4": 4, "<f8": 8, "<i2": 2, "<i4": 4, "<i8": 8, "<u2": 2, "<u4": 4,
    "<u8": 8, "<c8": 8, "<c16": 16,
}  # fmt: skip
_REMEDY = "it is damaged, or made to do this: fetch or make it again"
#: System calls of x86-64 that readers need: memory, open files, time, locks, the end. None opens, starts or connects.
_CALLS = (0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24, 25, 28, 32, 35, 39, 44, 45, 46, 47, 60,
          72, 79, 96, 97, 98, 131, 186, 202, 203, 204, 228, 230, 231, 262, 302, 318, 334)  # fmt: skip
_START = "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a[0]; import {0}; {0}.serve(*a[1:])"
_in_child = False


class Child:
    """A process with a reader, which answers one request after the other.

    Args:
        reader: ``module:class``; requests name methods of an instance, whose first argument is the list of files.
        where: The file or folder, named in errors.
        memory: Bytes that reading may take beside :data:`MEMORY`.
        seconds: Processor time of all requests beside :data:`SECONDS` and that which requests bring.
    """

    def __init__(self, reader: str, where: object, memory: int = 0, seconds: float = 0) -> None:
        self.where, self._memory, self._seconds = where, MEMORY + memory, SECONDS + seconds
        self._line, theirs = socket.socketpair()
        setup = json.dumps([_safe_path(), reader, self._memory, theirs.fileno()])
        keep = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START.format(__name__), setup], pass_fds=(theirs.fileno(),),
            cwd="/", start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", **keep},
        )  # fmt: skip
        theirs.close()
        self.owner = os.getpid()
        self.close = weakref.finalize(self, _end, self._process, self._line, self.owner)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, method: str, *args: Any, files: Sequence[BinaryIO] = (), seconds: float = 0
    ) -> tuple[Any, dict[str, np.ndarray]]:
        """:meth:`send` and :meth:`receive`."""
        self.send(method, *args, files=files, seconds=seconds)
        return self.receive()

    def send(self, method: str, *args: Any, files: Sequence[BinaryIO] = (), seconds: float = 0) -> None:
        """Asks for ``method(files, *args)``.

        Args:
            method: A method of the reader.
            args: JSON values.
            files: Open files, at most 200; they are closed here, and the child's position is that of the file.
            seconds: Processor time that this request brings.
        """
        self._seconds += seconds
        self._line.settimeout(self._patience)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):  # receive() tells these
            text = json.dumps([method, self._seconds, *args]).encode()
            socket.send_fds(self._line, [struct.pack("<q", len(text))], [file.fileno() for file in files])
            self._line.sendall(text)
        for file in files:
            file.close()

    def receive(self) -> tuple[Any, dict[str, np.ndarray]]:
        """The answer: a JSON value, and arrays by name.

        Raises:
            UserError: The reader refused the file, exceeded a limit, or died.
        """
        deadline = time.monotonic() + self._patience
        with located(self.where):
            try:
                size = struct.unpack("<q", self._take(8, deadline))[0]
                if not 0 <= size <= _MOST_TEXT:
                    raise ValueError
                answer = json.loads(self._take(size, deadline))
                if "fault" in answer:
                    raise UserError(*answer["fault"])
                return answer["value"], self._arrays(answer["arrays"], deadline)
            except TimeoutError:
                fault = f"was not read within {self._patience:.0f} s"
            except (EOFError, ConnectionResetError):
                fault = self._cause()
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
                fault = "its reader gave no answer that can be used"
            self.close()
            raise UserError("", fault, _REMEDY) from None

    def _arrays(self, kinds: dict[str, Any], deadline: float) -> dict[str, np.ndarray]:
        """Arrays ``{name: [type, shape]}`` whose bytes follow; nothing of that is believed."""
        found, left = {}, RESULT
        for name, (kind, shape) in kinds.items():
            size = math.prod(shape) * _KINDS[kind]
            if size > left or any(type(n) is not int or n < 0 for n in shape):
                raise ValueError
            left -= size
            found[name] = np.frombuffer(self._take(size, deadline), kind).reshape(shape)
        return found

    @property
    def _patience(self) -> float:
        return 2 * self._seconds + WAIT

    def _take(self, size: int, deadline: float) -> bytearray:
        content, done = bytearray(size), 0
        while done < size:
            # A socket's own limit begins anew with every byte.
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self._line.settimeout(left)
            got = self._line.recv_into(memoryview(content)[done:])
            if not got:
                raise EOFError
            done += got
        return content

    def _cause(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return f"takes more than {self._seconds:.0f} s of processor time"
        end = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"its reader ended with {end}, with {self._memory >> 20} MiB of memory allowed"


def check_answer(holds: bool, where: object) -> None:
    """Raises UserError where an answer is not of the form that was asked for."""
    if not holds:
        raise UserError(where, "its reader gave another answer than was asked for", _REMEDY)


def _safe_path() -> list[str]:
    """Folders of modules without the working folder, which may be a stranger's unless this package lies there."""
    here, root = os.path.realpath("."), str(Path(__file__).resolve().parents[2])
    places = [place for place in sys.path if os.path.isabs(place) and (here == root or os.path.realpath(place) != here)]
    return [*places, root]


def _end(process: subprocess.Popen[bytes], line: socket.socket, owner: int) -> None:
    line.close()
    if os.getpid() != owner:  # a fork of the owner
        return
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# In the child


def only_in_child() -> None:
    """Raises RuntimeError outside a child: its caller parses bytes that may be a stranger's."""
    if not _in_child:
        raise RuntimeError("this reader works behind the fence only (sida.files.fenced)")


def serve(reader: str, memory: int, line: int) -> None:
    """The child's life: imports, limits, then one answer for each request."""
    global _in_child
    _in_child = True
    peer = socket.socket(fileno=line)
    module, _, name = reader.partition(":")
    instance = getattr(importlib.import_module(module), name)()  # imports all that reading needs
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(memory)
    while True:
        size, files, _, _ = socket.recv_fds(peer, 8, 253)
        if not size:
            return
        method, seconds, *args = json.loads(peer.recv(struct.unpack("<q", size)[0], socket.MSG_WAITALL))
        limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            found = getattr(instance, method)([os.fdopen(file, "rb") for file in files], *args)
            text, parts = _answer(found)
            del found
        except Exception as error:  # of any reader
            text, parts = json.dumps({"fault": _fault(error, memory)}).encode(), []
        peer.sendall(struct.pack("<q", len(text)) + text)
        while parts:
            peer.sendall(parts.pop(0).data)


def _fault(error: Exception, memory: int) -> list[str]:
    if isinstance(error, UserError):
        return [error.place, error.fault[:500], error.remedy]
    if isinstance(error, MemoryError):
        return ["", f"needs more than {memory >> 20} MiB of memory to be read", _REMEDY]
    if isinstance(error, RecursionError):
        return ["", "is nested too deeply", _REMEDY]
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
    return ["", f"damaged ({reason})", "fetch or make it again"]


def _answer(found: tuple[Any, dict[str, Any]]) -> tuple[bytes, list[np.ndarray]]:
    """The answer's text, and the arrays whose bytes follow it; a list of equal arrays goes as one."""
    value, arrays = found
    kinds: dict[str, Any] = {}
    parts: list[np.ndarray] = []
    for name, given in arrays.items():
        alike = given if isinstance(given, list) else [given]
        shape = (len(alike), *alike[0].shape) if alike is given else alike[0].shape
        kinds[name] = [alike[0].dtype.str, shape]
        parts += map(np.ascontiguousarray, alike)
    if sum(part.nbytes for part in parts) > RESULT:
        raise MemoryError
    return json.dumps({"value": value, "arrays": kinds}).encode(), parts


def _limit(memory: int) -> None:
    """Limits beside what the imports took; on Linux for x86-64 neither files, programs, sockets nor processes."""
    with open("/proc/self/statm") as stream:
        now = int(stream.read().split()[0]) * mmap.PAGESIZE
    limits = {"AS": now + memory, "FSIZE": 0, "CORE": 0, "NOFILE": 256, "NPROC": 0}
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if platform.machine() != "x86_64":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    code += [(0x15, len(_CALLS) - index, 0, number) for index, number in enumerate(_CALLS)]
    code += [(0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]  # else EPERM; the listed ones are allowed
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in code))
    fprog = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program)))
    if libc.prctl(38, 1, 0, 0, 0) == 0:  # no new privileges
        libc.prctl(22, 2, ctypes.byref(fprog), 0, 0)  # the filter, where the kernel has filters
