"""The child of a conversion: its limits, its work, and the file that it writes.

It has one open input, one open output and no other right (:mod:`sida.files.convert` starts it).
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import math
import mmap
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from sida.errors import UserError
from sida.files.ordinary import UnreadableError

#: Bytes of the header of a converted file: names and shapes of its arrays, and the record.
ROOM = 4 << 20
#: Names of safetensors for numpy's types, in the order of bytes of x86-64.
KINDS = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16", "<f2": "F16", "<i4": "I32", "<u4": "U32",
    "<f4": "F32", "<i8": "I64", "<u8": "U64", "<f8": "F64",
}  # fmt: skip
#: Key of the record in a converted file, and exit status of a child without space for it.
RECORD, FULL = "converted", 100
#: Largest number of axes of an array, and of elements of an axis.
_MOST_AXES, _LONGEST_AXIS = 8, 1 << 48
REMEDY = "it is damaged, or made to do this: fetch or make it again"
#: System calls of x86-64 that readers need: memory, open files, time, locks, exit. None opens a file, starts a process
#: or connects.
_CALLS = (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 24, 25, 28, 35, 39, 60, 77, 79, 96, 98, 131, 186,
          202, 228, 230, 231, 262, 318, 334)  # fmt: skip
_in_child = False


def is_shape(shape: Any) -> bool:
    """Whether a value is the shape of a tensor: at most 8 whole numbers, each below 2⁴⁸."""
    # True is an instance of int.
    short = type(shape) in (list, tuple) and len(shape) <= _MOST_AXES
    return short and all(type(axis) is int and 0 <= axis < _LONGEST_AXIS for axis in shape)


class Writer:
    """Writes arrays one after the other, then the header, as safetensors.

    Args:
        file: An empty file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._header, self._end = file, dict[str, Any](), 0
        file.seek(8 + ROOM)

    def add(self, name: str, array: np.ndarray) -> None:
        """Writes an array of numbers, in the order of C."""
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        self.stream(name, [little.reshape(-1).view(np.uint8).data] if little.size else [], little.dtype, array.shape)

    def stream(
        self, name: str, parts: Iterable[Any], kind: Any = np.uint8, shape: tuple[int, ...] | None = None
    ) -> None:
        """Writes the bytes of an array; without a shape it has one axis."""
        begin, kind = self._end, np.dtype(kind)
        for part in parts:
            self._end += self._file.write(part)
        shape = ((self._end - begin) // kind.itemsize,) if shape is None else shape
        self._header[name] = {"dtype": KINDS[kind.str], "shape": [*shape], "data_offsets": [begin, self._end]}

    def restart(self) -> None:
        """Drops all arrays."""
        self._header, self._end = {}, 0
        self._file.seek(0)
        self._file.truncate()

    def finish(self, record: dict[str, Any]) -> None:
        """Writes the header with a record of JSON values."""
        metadata = {"__metadata__": {"sida": json.dumps({RECORD: json.dumps(record)})}}
        text = json.dumps(metadata | self._header).encode()
        room = ROOM if self._header else len(text)
        if len(text) > room:
            raise UserError("", f"has more than {ROOM >> 20} MiB of names and values", REMEDY)
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + text.ljust(room))
        self._file.flush()
        self._file.truncate(8 + room + self._end)


def only_in_child() -> None:
    """Raises RuntimeError outside a child; called by code that must not see untrusted bytes elsewhere."""
    if not _in_child:
        raise RuntimeError("this reader works in a child process only (sida.files.convert)")


def serve(reader: str, source: int, out: int, limits: tuple[int, int, int, int]) -> None:
    """The child: imports, limits, work, exit."""
    global _in_child
    _in_child = True
    module, _, name = reader.partition(":")
    read = getattr(importlib.import_module(module), name)  # imports all that reading needs
    args, stream, writer = json.load(sys.stdin), os.fdopen(source, "rb"), Writer(os.fdopen(out, "wb"))
    _limit(*limits)
    os._exit(answer(read, args, stream, writer, limits))


def answer(
    read: Callable[..., Any], args: list[Any], stream: BinaryIO, writer: Writer, limits: tuple[int, int, int, int]
) -> int:
    """Writes the value and the arrays of a reader, or its fault; returns the child's exit status."""
    try:
        try:
            writer.finish({"value": read(stream, writer, *args)})
        except Exception as error:  # of any reader
            writer.restart()
            writer.finish({"fault": _fault(error, limits[0], limits[3] - ROOM)})
    except OSError:
        return FULL
    return 0


def _fault(error: Exception, memory: int, output: int) -> tuple[str, str, str, bool]:
    """Where, fault, remedy, and whether the content may be intact: the reader failed for another reason."""
    if isinstance(error, UserError):
        return error.where[:1000], error.fault[:1000], error.remedy[:1000], isinstance(error, UnreadableError)
    if isinstance(error, MemoryError):
        return "", f"needs more than {memory >> 20} MiB of memory to be read", REMEDY, True
    if isinstance(error, RecursionError):
        return "", "is nested too deeply", REMEDY, False
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "", f"unpacks to more than {output:,} bytes", REMEDY, True
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise error
    # Damaged bytes cause EINVAL by an invalid offset.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return "", f"cannot be read ({error.strerror})", "", True
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
    return "", f"damaged ({reason})", "fetch or make it again", False


def _limit(memory: int, seconds: int, clock: int, output: int) -> None:
    """Limits memory, time and output; and on x86-64, by a filter of system calls (seccomp), all else.

    The filter forbids to open files, to start programs and processes, and to make sockets. Other processors have the
    limits alone: of open files and processes as well, which do not bind root.
    """
    with open("/proc/self/statm") as stream:
        now = int(stream.read().split()[0]) * mmap.PAGESIZE
    spent = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    limits = {"AS": now + memory, "CPU": spent + seconds, "FSIZE": output, "CORE": 0, "NOFILE": 0, "NPROC": 0}
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # At its soft limit of processor time the child ends by SIGXCPU, which tells the cause.
        resource.setrlimit(kind, (value, value + (name == "CPU" and value != hard)))
    signal.alarm(clock)
    if platform.machine() != "x86_64":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Instructions of classic BPF (operation, jump if true, jump if false, operand): 0x20 loads a word of the call (0:
    # its number, 4: the architecture), 0x15 compares, 0x06 returns (EPERM at the end). Other architectures number the
    # calls in another way, so a call of theirs ends the process.
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    code += [step for number in _CALLS for step in ((0x15, 0, 1, number), (0x06, 0, 0, 0x7FFF0000))]
    code.append((0x06, 0, 0, 0x00050001))
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in code))
    fprog = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program)))
    if libc.prctl(38, 1, 0, 0, 0) == 0:  # PR_SET_NO_NEW_PRIVS, without which a filter needs privileges
        libc.prctl(22, 2, ctypes.byref(fprog), 0, 0)  # PR_SET_SECCOMP; kernels without filters ignore it
