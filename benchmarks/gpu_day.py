"""``python -m benchmarks gpu_day``: all that is measured on a GPU, in parts of at most ten minutes.

Each part writes PART.log and, at its end, PART.json into the folder of results. A part with a result is skipped, so
that the same command resumes. After each part gpu_day.md has what came out beside the goals. With --minutes the command
ends in time: the preset resumes later, other parts begin again.

On a machine that is lent for commands of ten minutes, and of which only few files below $OUT come back:

    python -m benchmarks gpu_day --minutes 9; tar -czf $OUT/gpu_day.tgz results/gpu_day

Unpack the file here, and run the same again with results/gpu_day brought along (`carry`) until no part is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.files.atomic import atomic_path, write_json

TESTS = [
    "tests/kernels",
    "tests/training/test_rounds.py",
    "tests/training/test_states.py",
    "tests/networks/test_properties.py",
    "tests/eval/measuring/test_measure.py",
]
PRESET = ["snakemake", "--cores", "8", "--resources", "gpu=1", "--rerun-incomplete", "--configfile"]
#: Seconds that a part has to end after it is asked to, and the least that a part is started with.
GRACE, LEAST = 40, 60


@dataclass(frozen=True)
class Part:
    """A part of the day.

    Attributes:
        goal: For the table.
        work: Function ``(file) -> kept``, which writes its result to a file, or a command.
    """

    goal: str
    work: Callable[[Path], bool] | list[str]


def _steps(number: int) -> Callable[[Path], bool]:
    def work(out: Path) -> bool:
        from benchmarks import gpu

        return gpu.main(out, [gpu.CASES[min(number, len(gpu.CASES) - 1)]], departure=False)

    return work


def _departure(out: Path) -> bool:
    from benchmarks import gpu

    return gpu.main(out, [])


def _sampling(out: Path) -> bool:
    from benchmarks import gpu_sampling

    return gpu_sampling.main(out)


def _training(out: Path) -> bool:
    from benchmarks import gpu_loop

    return gpu_loop.main(out)


PARTS: dict[str, Part] = {
    "tests": Part("all pass", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]),
    "step-cifar10-32": Part("at least 5 times the official order, start within 10 s", _steps(0)),
    "step-cifar10-128": Part("at least 2.5 times, half of the peak, memory 0.6 with recompute", _steps(1)),
    "step-imagenet64": Part("at least 2.5 times, memory 0.6 with recompute", _steps(2)),
    "step-edm2-s": Part("at least 2.5 times, memory 0.6 with recompute", _steps(3)),
    "departure": Part("bfloat16 and float16 beside float32, 300 steps", _departure),
    "sampling": Part("97 % of the fused network alone, DINOv2's variants, a row of 10 × 50,000", _sampling),
    "training": Part("the loop at least 97 % of the bare step; guided; a state; two processes", _training),
    "preset": Part("from nothing to its page in 25 minutes", [*PRESET, "studies/gpu/preset.yaml"]),
}


def command(words: list[str]) -> int:
    """Runs the parts that have no result yet; 1 if one of them was not finished or missed its goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/gpu_day"), metavar="DIR", help="folder of results")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all, in this order)")
    parser.add_argument("--minutes", type=float, default=600.0, help="time for this call (default: no limit)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, kernels in the interpreter")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    names = args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    if args.child:
        work = PARTS[names[0]].work
        assert callable(work)
        return 0 if work(args.out) else 1
    args.out.mkdir(parents=True, exist_ok=True)
    end, kept = time.monotonic() + 60 * args.minutes - GRACE, True
    for name in names:
        if not (args.out / f"{name}.json").exists():
            left = min(600.0, end - time.monotonic())
            print(f"== {name}", flush=True)
            if left < LEAST or not run(name, args.out, left, args.rehearse):
                print(f"{name}: not finished; the same command continues", flush=True)
                kept = False
                break
        kept &= json.loads((args.out / f"{name}.json").read_text())["kept"]
    print(table(args.out), end="")
    return 0 if kept else 1


def run(name: str, out: Path, seconds: float, rehearse: bool) -> bool:
    """Runs a part; False if the time was over before its end."""
    part, measured = PARTS[name], out / f"{name}.part.json"
    words = part.work if isinstance(part.work, list) else [
        sys.executable, "-m", "benchmarks", "gpu_day", "--child", "--parts", name, "--out", str(measured)]  # fmt: skip
    if rehearse:
        words = [*words, *{"tests": ["--collect-only"], "preset": ["studies/gpu/gpu-small.yaml", "-n"]}.get(name, [])]
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    more = {"SIDA_REHEARSAL": "1", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if rehearse else {}
    start, begin = time.monotonic(), out / f"{name}.log"
    with begin.open("a", encoding="utf-8") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                                   env={**os.environ, "PATH": scripts, **more})  # fmt: skip
        if not _ends(process, seconds):
            return False
    seconds = time.monotonic() - start
    lines = begin.read_text(encoding="utf-8", errors="replace").splitlines()
    result: dict[str, Any] = {"part": name, "goal": part.goal, "kept": process.returncode == 0, "seconds": seconds}
    if measured.exists():
        result["measured"] = json.loads(measured.read_text())
    if rehearse:
        result["rehearsal"] = "on the CPU; no number means anything"
    write_json(out / f"{name}.json", {**result, "last_lines": lines[-5:]})
    measured.unlink(missing_ok=True)
    with atomic_path(out / "gpu_day.md") as path:
        path.write_text(table(out), encoding="utf-8")
    return True


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits for a process; after the time its group is asked to end, then killed."""
    for sign, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, GRACE - 10), (None, None)):
        try:
            process.wait(patience)
            return sign is signal.SIGTERM
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)  # type: ignore[arg-type]
    return False


def table(out: Path) -> str:
    """Markdown table of the parts that have a result."""
    rows = ["| part | goal | kept | seconds | measured |", "|---|---|---|---:|---|"]
    for name in PARTS:
        with contextlib.suppress(FileNotFoundError):
            found = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
            kept = "rehearsed" if "rehearsal" in found and found["kept"] else "yes" if found["kept"] else "**no**"
            shown = "; ".join(_numbers(found.get("measured", {}))) or " / ".join(found["last_lines"][-1:])
            rows.append(f"| {name} | {found['goal']} | {kept} | {found['seconds']:.0f} | {shown} |")
    return "\n".join(rows) + "\n"


def _numbers(measured: Mapping[str, Any]) -> list[str]:
    """The rows of a part's result in a few words."""
    words = []
    for row in measured.get("rows", []):
        name = row.get("side") or row.get("what")
        share = f", × {row['ratio']:.2f}" if "ratio" in row else f", {row['share']:.0%}" if row.get("share") else ""
        words.append(
            f"{name} {row['img_per_s']:.3g} img/s{share}" if "img_per_s" in row else f"{name}: {row['result']}"
        )
    words += [f"{row['way']}: weights {row['weights']:.1e}" for row in measured.get("fidelity", [])]
    return [word.replace("|", "/") for word in words]
