"""A plan of more than 10,000 jobs: every row of ``released`` in small shards, as Snakemake's dry run.

Bounds: 60 seconds and 2 GB. The seconds are the processor's, which other work on the machine disturbs least; those on
the wall and the load stand beside them. The baseline is a plan of one measurement: what of it is start-up.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sida.files.atomic import write_json
from sida.provenance import environment

SECONDS, MEGABYTES, JOBS = 60, 2000, 10_000
# 14 shards for each of 680 trials, and what merges and shows them: a little more than 10,000 jobs.
SHARD = 3600


def plan(*arguments: str) -> dict[str, float]:
    """Jobs, seconds and peak megabytes of a dry run of ``released``."""
    root = Path(__file__).resolve().parent.parent
    command = [str(Path(sys.executable).parent / "snakemake"), "-s", str(root / "Snakefile"), "-n", "--cores", "2"]
    command += ["--configfile", str(root / "studies/papers/released.yaml"), "--quiet", "rules", "--config"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(root / "results", Path(folder) / "results")
        run = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs = [int(number) for number in re.findall(r"^total +(\d+)$", run.stdout + run.stderr, re.MULTILINE)]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # The peak of all children so far: the larger plan is made last.
    return {"jobs": jobs[0], "seconds": seconds, "wall_seconds": wall, "megabytes": after.ru_maxrss / 1024}


def main(out: Path) -> bool:
    """Plans one measurement, then all of them."""
    one = plan(f"shard_size={SHARD}", "--", "measurements/cifar10-uncond-sida-a1/trial-0.json")
    large = plan(f"shard_size={SHARD}")
    kept = large["jobs"] >= JOBS and large["seconds"] <= SECONDS and large["megabytes"] <= MEGABYTES
    for name, side in (("one", one), ("all", large)):
        print(f"{name}: {side['jobs']:,.0f} jobs, {side['seconds']:.1f} s of a processor ", end="")
        print(f"({side['wall_seconds']:.0f} s on the wall), {side['megabytes']:.0f} MB")
    print(f"bounds for {JOBS:,} jobs: {SECONDS} s, {MEGABYTES} MB; load {os.getloadavg()[0]:.1f}")
    write_json(out, {"one": one, "all": large, "load": os.getloadavg()[0], "environment": environment()})
    return kept
