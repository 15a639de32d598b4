"""The process boundary: bytes of strangers are converted once, by a child process with limits, into a file of ours.

The child has one open input, one open output and no other right. It writes arrays and a JSON record as safetensors, and
ends; the parent reads that file alone. Nothing is asked, answered or unpickled between the two. A file that takes over
its child can still make it write wrong values.
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
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from sida.errors import UserError
from sida.files.ordinary import UnreadableError

#: Memory in bytes that a reader may take beside its imports, and processor time in seconds, in addition to the shares
#: that callers allow for a file's bytes; seconds by the clock beside twice the processor time; bytes of its output.
MEMORY, SECONDS, WAIT, OUTPUT = 768 << 20, 5.0, 30.0, 1 << 30
#: Bytes of the header of a converted file: names and shapes of its arrays, and the record.
_ROOM = 4 << 20
#: Names of safetensors for numpy's types, in the order of bytes of x86-64.
KINDS = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16", "<f2": "F16", "<i4": "I32", "<u4": "U32",
    "<f4": "F32", "<i8": "I64", "<u8": "U64", "<f8": "F64",
}  # fmt: skip
_RECORD, _FULL = "converted", 100
#: Largest number of axes of an array, and of elements of an axis.
_MOST_AXES, _LONGEST_AXIS = 8, 1 << 48
_REMEDY = "it is damaged, or made to do this: fetch or make it again"
#: System calls of x86-64 that readers need: memory, open files, time, locks, exit. None opens a file, starts a process
#: or connects.
_CALLS = (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 24, 25, 28, 35, 39, 60, 77, 79, 96, 98, 131, 186,
          202, 228, 230, 231, 262, 318, 334)  # fmt: skip
_START = "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a[0]; import {0}; {0}._serve(*a[1:])"
_in_child = False


def convert(
    reader: str, source: IO[bytes], where: object, *args: Any, memory: int = 0, seconds: float = 0, output: int = OUTPUT
) -> tuple[Any, dict[str, np.ndarray]]:
    """Converts a file in a child process.

    Args:
        reader: ``module:function``; the child calls it with the source, a :class:`Writer` and ``args``.
        source: The open file, which the child may read from any place.
        where: The file or folder, named in errors.
        args: JSON values.
        memory: Bytes that reading may take in addition to :data:`MEMORY`.
        seconds: Processor time in addition to :data:`SECONDS`.
        output: Largest size of the converted file in bytes.

    Returns:
        The JSON value that the reader returned, and the arrays that it wrote, by name: mappings of an unnamed file.

    Raises:
        UserError: The reader refused the file.
        UnreadableError: The reader exceeded a limit, could not read, or died; the content may be intact.
    """
    limit = math.ceil(SECONDS + seconds)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as out, tempfile.TemporaryFile() as request:
        request.write(json.dumps(args).encode())
        request.seek(0)
        files, limits = (source.fileno(), out.fileno()), (MEMORY + memory, limit, int(2 * limit + WAIT), output + _ROOM)
        # Other variables may hold secrets. -I and -S keep the user's variables and .pth files from running code.
        inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START.format(__name__), json.dumps([_path(), reader, *files, limits])],
            pass_fds=files, cwd="/", start_new_session=True, stdin=request, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", **inherited},
        ) as child:  # fmt: skip
            try:
                code = child.wait()
            finally:
                child.kill()
        if code:
            raise UnreadableError(where, *_cause(code, *limits[:3]))
        return _read(out.name, where)


def _read(path: str, where: object) -> tuple[Any, dict[str, np.ndarray]]:
    """Value and arrays of a converted file. It is checked as any file of ours."""
    from sida.files.tensors import read_tensor_header  # which the child does not need

    try:
        header = read_tensor_header(path)
        record = json.loads(str((header.record or {})[_RECORD]))
        whole = np.memmap(path, np.uint8, "c")
        kinds = {name: kind for kind, name in KINDS.items()}
        arrays = {
            entry.name: whole[header.data_start + entry.begin : header.data_start + entry.end]
            .view(np.ndarray).view(kinds[entry.dtype]).reshape(entry.shape)
            for entry in header.entries
        }  # fmt: skip
        fault = record.get("fault")
        if fault is None:
            return record["value"], arrays
        place, text, remedy, may_be_intact = fault
    except (UserError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(where, "its reader's output cannot be used", _REMEDY) from None
    place = f"{where}{place}" if not place or str(place).startswith(":") else place
    raise (UnreadableError if may_be_intact else UserError)(place, text, remedy)


def _cause(code: int, memory: int, seconds: int, clock: int) -> tuple[str, str]:
    """Fault and remedy of a child that ended without a file."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {seconds} s of processor time", _REMEDY
    if code == -signal.SIGALRM:
        return f"was not read within {clock} s", _REMEDY
    if code == _FULL:
        return (
            f"cannot be converted: no space in {tempfile.gettempdir()}",
            "free space, or set TMPDIR to another folder",
        )
    end = signal.Signals(-code).name if code < 0 else f"status {code}"
    return f"its reader ended with {end}, with {memory >> 20} MiB of memory allowed", _REMEDY


def is_shape(shape: Any) -> bool:
    """Whether a value is the shape of a tensor: at most 8 whole numbers, each below 2⁴⁸."""
    # True is an instance of int.
    short = type(shape) in (list, tuple) and len(shape) <= _MOST_AXES
    return short and all(type(axis) is int and 0 <= axis < _LONGEST_AXIS for axis in shape)


def _path() -> list[str]:
    """Search path of modules without the working folder, which may be untrusted unless it holds this package."""
    folder, root = os.path.realpath("."), str(Path(__file__).resolve().parents[2])
    paths = [path for path in sys.path if os.path.isabs(path) and (folder == root or os.path.realpath(path) != folder)]
    return [*paths, root]


# In the child


class Writer:
    """Writes arrays one after the other, then the header, as safetensors.

    Args:
        file: An empty file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._header, self._end = file, dict[str, Any](), 0
        file.seek(8 + _ROOM)

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
        metadata = {"__metadata__": {"sida": json.dumps({_RECORD: json.dumps(record)})}}
        text = json.dumps(metadata | self._header).encode()
        room = _ROOM if self._header else len(text)
        if len(text) > room:
            raise UserError("", f"has more than {_ROOM >> 20} MiB of names and values", _REMEDY)
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + text.ljust(room))
        self._file.flush()
        self._file.truncate(8 + room + self._end)


def only_in_child() -> None:
    """Raises RuntimeError outside a child; called by code that must not see untrusted bytes elsewhere."""
    if not _in_child:
        raise RuntimeError("this reader works in a child process only (sida.files.convert)")


def _serve(reader: str, source: int, out: int, limits: tuple[int, int, int, int]) -> None:
    """The child: imports, limits, work, exit."""
    global _in_child
    _in_child = True
    module, _, name = reader.partition(":")
    read = getattr(importlib.import_module(module), name)  # imports all that reading needs
    args, stream, writer = json.load(sys.stdin), os.fdopen(source, "rb"), Writer(os.fdopen(out, "wb"))
    _limit(*limits)
    try:
        try:
            writer.finish({"value": read(stream, writer, *args)})
        except Exception as error:  # of any reader
            writer.restart()
            writer.finish({"fault": _fault(error, limits[0], limits[3] - _ROOM)})
    except OSError:
        os._exit(_FULL)
    os._exit(0)


def _fault(error: Exception, memory: int, output: int) -> tuple[str, str, str, bool]:
    """Where, fault, remedy, and whether the content may be intact: the reader failed for another reason."""
    if isinstance(error, UserError):
        return error.where[:1000], error.fault[:1000], error.remedy[:1000], isinstance(error, UnreadableError)
    if isinstance(error, MemoryError):
        return "", f"needs more than {memory >> 20} MiB of memory to be read", _REMEDY, True
    if isinstance(error, RecursionError):
        return "", "is nested too deeply", _REMEDY, False
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "", f"unpacks to more than {output:,} bytes", _REMEDY, True
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
