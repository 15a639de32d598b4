"""``python -m benchmarks [NAME ...]``: runs benchmarks one after the other; without a name the quick ones.

``python -m benchmarks gpu_day --help``: all that needs a GPU, in parts.
Results go to ``results/benchmarks/<name>.json``. The exit status is 1 when a stated bound is missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

#: Modules with ``main(out: Path, ...) -> bool`` (all bounds kept), and whether they run without being named.
BENCHMARKS = {"step": True, "peers": False, "gpu_sampling": False, "choices": False}


def main() -> int:
    if sys.argv[1:2] == ["gpu_day"]:
        return importlib.import_module("benchmarks.gpu_day").command(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="default: the quick ones")
    parser.add_argument("--rounds", type=int, default=3, help="of peers")
    args, missed = parser.parse_args(), []
    for name in args.names or [name for name, quick in BENCHMARKS.items() if quick]:
        print(f"== {name}", flush=True)
        rounds = {"rounds": args.rounds} if name == "peers" else {}
        if not importlib.import_module(f"benchmarks.{name}").main(Path(f"results/benchmarks/{name}.json"), **rounds):
            missed.append(name)
    if missed:
        print(f"bounds missed in: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
