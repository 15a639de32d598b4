"""``python -m benchmarks gpu_day``: all that is measured on a GPU, in parts of at most ten minutes.

Each part writes PART.log and, at its end, PART.json into the folder of results. A part with a result is skipped, so
that the same command resumes; with --minutes it ends in time. On a machine that is lent for commands of ten minutes,
and of which only few files below $OUT come back:

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
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json

_TESTS = [
    "plugins/kernels/tests",
    "tests/training/test_rounds.py",
    "tests/training/test_states.py",
    "tests/networks/test_properties.py",
    "tests/eval/measuring/test_measure.py",
]
_PRESET = ["snakemake", "--cores", "8", "--resources", "gpu=1", "--rerun-incomplete", "--configfile"]
#: Goal and command of each part; a module of this folder (``step`` and others) writes a result, too.
PARTS: dict[str, tuple[str, list[str]]] = {
    "tests": ("all pass", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS]),
    "step-cifar10-32": ("at least 5 times the official order, start within 10 s", ["step", "0"]),
    "step-cifar10-128": ("at least 2.5 times, half of the peak, memory 0.6", ["step", "1"]),
    "step-imagenet64": ("at least 2.5 times, memory 0.6", ["step", "2"]),
    "step-edm2-s": ("at least 2.5 times, memory 0.6", ["step", "3"]),
    "step-sit-b2": ("half of the peak", ["step", "4"]),
    "step-sit-xl2": ("half of the peak", ["step", "5"]),
    "compiled-sit-xl2-32": ("1.25 times torch's kernels", ["step", "0", "COMPILED"]),
    "compiled-cifar10-128": ("2.5 times the official order", ["step", "3", "COMPILED"]),
    "compiled-edm2-s-128": ("2.5 times the official order", ["step", "5", "COMPILED"]),
    "compiled-sit-xl2-128": ("1.25 times torch's kernels, 0.4 of the peak", ["step", "1", "COMPILED"]),
    "compiled-cifar10-32": ("torch's kernels", ["step", "2", "COMPILED"]),
    "compiled-imagenet64-128": ("2.5 times the official order", ["step", "7", "COMPILED"]),
    "compiled-edm2-s-32": ("torch's kernels", ["step", "4", "COMPILED"]),
    "compiled-sit-b2-32": ("torch's kernels", ["step", "8", "COMPILED"]),
    "compiled-sit-b2-128": ("torch's kernels", ["step", "9", "COMPILED"]),
    "compiled-imagenet64-32": ("torch's kernels", ["step", "6", "COMPILED"]),
    "sampling": ("97 % of the fused network alone, a row of 10 × 50,000", ["gpu_sampling"]),
    "trainings": ("a training as fast as its step; MeanFlow's difference in 0.8 of the time", ["gpu_jobs", "0"]),
    "transformers": ("97 % of the network alone", ["gpu_jobs", "1"]),
    "row": ("FID of 50,000 images from a generator, beside torch-fidelity", ["gpu_jobs", "2"]),
    "preset": ("from nothing to its page in 25 minutes", [*_PRESET, "studies/gpu/preset.yaml"]),
}
#: Seconds that a part has to end after it is asked to, and the least that a part is started with.
GRACE, LEAST = 40, 60


def command(words: list[str]) -> int:
    """Runs the parts that have no result yet; 1 if one of them was not finished or missed its goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/gpu_day"), metavar="DIR", help="folder of results")
    parts = f"or first words of names, of {', '.join(PARTS)} (default: all, in this order)"
    parser.add_argument("--parts", default=",".join(PARTS), help=parts)
    parser.add_argument("--minutes", type=float, default=600.0, help="time for this call (default: no limit)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, kernels in the interpreter")
    args = parser.parse_args(words)
    meant = {part: [name for name in PARTS if f"{name}-".startswith(f"{part}-")] for part in args.parts.split(",")}
    if unknown := [part for part, names in meant.items() if not names]:
        parser.error(f"--parts: no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    names = [name for names in meant.values() for name in names]
    args.out.mkdir(parents=True, exist_ok=True)
    end, kept = time.monotonic() + 60 * args.minutes - GRACE, True
    for name in names:
        file = args.out / f"{name}.json"
        if not file.exists():
            left = min(600.0, end - time.monotonic())
            print(f"== {name}", flush=True)
            if left < LEAST or not run(name, args.out, left, args.rehearse):
                print(f"{name}: not finished; the same command continues", flush=True)
                return 1
        found = json.loads(file.read_text())
        kept &= found["kept"]
        print(f"{name}: {'kept' if found['kept'] else 'MISSED'} ({found['goal']}), {found['seconds']:.0f} s")
    return 0 if kept else 1


def run(name: str, out: Path, seconds: float, rehearse: bool) -> bool:
    """Runs a part; False if the time was over before its end."""
    (goal, words), measured, log = PARTS[name], out / f"{name}.part.json", out / f"{name}.log"
    if words[0] in ("step", "gpu_sampling", "gpu_jobs"):
        code = "import importlib, pathlib, sys; module = importlib.import_module('benchmarks.' + sys.argv[1]); "
        code += "cases = [[vars(module)[(sys.argv[4:] or ['CASES'])[0]][int(n)]] for n in sys.argv[3:4]]; "
        code += "sys.exit(not module.main(pathlib.Path(sys.argv[2]), *cases))"
        words = [sys.executable, "-c", code, words[0], str(measured), *words[1:]]
    if rehearse:
        words = [*words, *{"tests": ["--collect-only"], "preset": ["studies/gpu/gpu-small.yaml", "-n"]}.get(name, [])]
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    more = {"SIDA_REHEARSAL": "1", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if rehearse else {}
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as stream:
        process = subprocess.Popen(
            words,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": scripts, **more},
        )
        if not _ends(process, seconds):
            return False
    seconds = time.monotonic() - start
    result: dict[str, Any] = {"part": name, "goal": goal, "kept": process.returncode == 0, "seconds": seconds}
    if measured.exists():
        result["measured"] = json.loads(measured.read_text())
    if rehearse:
        result["rehearsal"] = "on the CPU; no number means anything"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    write_json(out / f"{name}.json", {**result, "last_lines": lines[-5:]})
    measured.unlink(missing_ok=True)
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
