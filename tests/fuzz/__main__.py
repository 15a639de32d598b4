"""Repeats a case of the fuzzing with its traceback, or counts many cases of readers into a file.

``python -m tests.fuzz READER CASE [FILE]``; FILE keeps the case.
``python -m tests.fuzz count FILE [READER ...]`` writes what comes of 10,000 cases, by default of all readers; stopped
at any time, the same command resumes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from sida.errors import UserError
from tests.fuzz.frame import SLOW, FaultError, case, fuzz, readers
from tests.fuzz.guards import MemoryLimit, peak_memory, reset_peak
from tests.fuzz.report import line, store, stored

#: Cases between two writings of the file.
PIECE = 500


def main(arguments: list[str]) -> int:
    known = readers()
    if arguments[:1] == ["count"] and len(arguments) > 1 and set(arguments[2:]) <= set(known):
        return count(Path(arguments[1]).resolve(), arguments[2:] or list(known))
    if len(arguments) < 2 or arguments[0] not in known:
        usage = "python -m tests.fuzz READER CASE [FILE], or count FILE [READER ...]"
        print(f"usage: {usage}; readers: {', '.join(known)}", file=sys.stderr)
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


def count(file: Path, names: list[str]) -> int:
    """Reads cases of readers, a piece of the one with the fewest at a time, on top of what the file holds."""
    total = {name: stored(file, name) for name in names}
    status = 0
    while waiting := [name for name in total if total[name].cases < SLOW]:
        name = min(waiting, key=lambda name: total[name].cases)
        begin = total[name].cases
        with tempfile.TemporaryDirectory() as folder:
            try:
                total[name].add(fuzz(readers()[name], range(begin, min(begin + PIECE, SLOW)), Path(folder)))
            except FaultError as fault:
                print(fault, flush=True)
                del total[name]
                status = 1
                continue
        store(file, name, total[name])
        print(line(name, total[name]), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
