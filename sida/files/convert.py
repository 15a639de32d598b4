"""The process boundary: bytes of strangers are converted once, by a child process with limits, into a file of ours.

The child has one open input, one open output and no other right. It writes arrays and a JSON record as safetensors, and
ends; the parent reads that file alone. Nothing is asked, answered or unpickled between the two. A file that takes over
its child can still make it write wrong values.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from sida.errors import UserError
from sida.files.child import FULL, KINDS, RECORD, REMEDY, ROOM
from sida.files.ordinary import UnreadableError
from sida.files.tensors import read_tensor_header

#: Memory in bytes that a reader may take beside its imports, and processor time in seconds, in addition to the shares
#: that callers allow for a file's bytes; seconds by the clock beside twice the processor time; bytes of its output.
MEMORY, SECONDS, WAIT, OUTPUT = 768 << 20, 5.0, 30.0, 1 << 30
_START = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a[0]; "
    "from sida.files.child import serve; serve(*a[1:])"
)


def convert(
    reader: str, source: IO[bytes], where: object, *args: Any, memory: int = 0, seconds: float = 0, output: int = OUTPUT
) -> tuple[Any, dict[str, np.ndarray]]:
    """Converts a file in a child process.

    Args:
        reader: ``module:function``; the child calls it with the source, a writer (:mod:`sida.files.child`) and
            ``args``.
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
        files = source.fileno(), out.fileno()
        limits = MEMORY + memory, limit, int(2 * limit + WAIT), output + ROOM
        # Other variables may hold secrets. -I and -S keep the user's variables and .pth files from running code.
        inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, json.dumps([_path(), reader, *files, limits])],
            pass_fds=files, cwd="/", start_new_session=True, stdin=request, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", **inherited},
        ) as process:  # fmt: skip
            try:
                code = process.wait()
            finally:
                process.kill()
        if code:
            raise UnreadableError(where, *_cause(code, *limits[:3]))
        return _read(out.name, where)


def _read(path: str, where: object) -> tuple[Any, dict[str, np.ndarray]]:
    """Value and arrays of a converted file. It is checked as any file of ours."""
    try:
        header = read_tensor_header(path)
        record = json.loads(str((header.record or {})[RECORD]))
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
        raise UserError(where, "its reader's output cannot be used", REMEDY) from None
    place = f"{where}{place}" if not place or str(place).startswith(":") else place
    raise (UnreadableError if may_be_intact else UserError)(place, text, remedy)


def _cause(code: int, memory: int, seconds: int, clock: int) -> tuple[str, str]:
    """Fault and remedy of a child that ended without a file."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {seconds} s of processor time", REMEDY
    if code == -signal.SIGALRM:
        return f"was not read within {clock} s", REMEDY
    if code == FULL:
        return (
            f"cannot be converted: no space in {tempfile.gettempdir()}",
            "free space, or set TMPDIR to another folder",
        )
    end = signal.Signals(-code).name if code < 0 else f"status {code}"
    return f"its reader ended with {end}, with {memory >> 20} MiB of memory allowed", REMEDY


def _path() -> list[str]:
    """Search path of modules without the working folder, which may be untrusted unless it holds this package."""
    folder, root = os.path.realpath("."), str(Path(__file__).resolve().parents[2])
    paths = [path for path in sys.path if os.path.isabs(path) and (folder == root or os.path.realpath(path) != folder)]
    return [*paths, root]
