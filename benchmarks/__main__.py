"""``python -m benchmarks [NAME ...]``: runs benchmarks one after the other; without a name the quick ones.

``python -m benchmarks gpu_day --help``: all that needs a GPU, in parts.
Results go to ``results/benchmarks/<name>.json``. The exit status is 1 when a stated bound is missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

#: Modules with ``main(out: Path) -> bool`` (all bounds kept), and whether they run without being named.
BENCHMARKS = {"frechet": True, "evaluation": True, "peers": False, "gpu": False, "gpu_sampling": False}


def main() -> int:
    if sys.argv[1:2] == ["gpu_day"]:
        return importlib.import_module("benchmarks.gpu_day").command(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="default: the quick ones")
    missed = []
    for name in parser.parse_args().names or [name for name, quick in BENCHMARKS.items() if quick]:
        print(f"== {name}", flush=True)
        if not importlib.import_module(f"benchmarks.{name}").main(Path("results/benchmarks") / f"{name}.json"):
            missed.append(name)
    if missed:
        print(f"bounds missed in: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
