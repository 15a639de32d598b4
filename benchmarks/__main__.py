"""``python -m benchmarks [NAME ...]``: runs benchmarks one after the other; without a name all quick ones.

``python -m benchmarks gpu_day --help``: all that needs a GPU, in parts.
Results go to ``results/benchmarks/<name>.json``. The exit status is 1 when a stated bound is missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

# Each module has main(out: Path) -> bool (all bounds kept); "slow" ones run only when named.
QUICK = [
    "house",
    "training_step",
    "training_loop",
    "frechet",
    "evaluation",
    "import_pickle",
    "sampling",
    "two_processes",
]
SLOW = [
    "large_plan",
    "large_results",
    "step_work",
    "gpu",
    "gpu_sampling",
    "gpu_loop",
    "training_step_compiled",
    "peers",
    "protocol_choices",
]


def main() -> int:
    if sys.argv[1:2] == ["gpu_day"]:
        return importlib.import_module("benchmarks.gpu_day").command(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(QUICK)}; slow: {', '.join(SLOW)}")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in QUICK + SLOW]
    if unknown:
        print(f"error: no benchmark '{unknown[0]}'; there are {', '.join(QUICK + SLOW)}", file=sys.stderr)
        return 1
    missed = []
    for name in args.names or QUICK:
        print(f"== {name}", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        if not module.main(Path("results/benchmarks") / f"{name}.json"):
            missed.append(name)
    if missed:
        print(f"bounds missed in: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
