"""Repeats a case of the fuzzing with its traceback: ``python -m tests.fuzz READER CASE [FILE]``; FILE keeps it."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from sida.errors import UserError
from tests.fuzz.frame import case, readers
from tests.fuzz.guards import MemoryLimit, peak_memory, reset_peak


def main(arguments: list[str]) -> int:
    known = readers()
    if len(arguments) < 2 or arguments[0] not in known:
        print(f"usage: python -m tests.fuzz READER CASE [FILE]; readers: {', '.join(known)}", file=sys.stderr)
        return 2
    reader = known[arguments[0]]
    name, content = case(reader, int(arguments[1]))
    if len(arguments) > 2:
        Path(arguments[2]).write_bytes(content)
    with tempfile.TemporaryDirectory() as folder, MemoryLimit():
        path = Path(folder) / name
        path.write_bytes(content)
        before, begin = reset_peak(), time.process_time()
        try:
            print("accepted:", repr(reader.read(path, Path(folder)))[:500])
        except UserError as error:
            print("refused:", error)
        finally:
            print(f"{time.process_time() - begin:.2f} s, {peak_memory() - before:.0f} MB")
    return 0


sys.exit(main(sys.argv[1:]))
