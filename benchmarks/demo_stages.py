"""The demo's wall time by stage in a warm run; Snakemake at most 10 %, with start-up of the jobs at most 25 %.

Every command of the suite appends its start, the moment its imports are done, and its end to the file named in
``SIDA_TIMING_LOG`` (see :func:`sida.cli.main.timed`). A moment counts as overhead when no job is past its
start-up: Snakemake deciding, interpreters starting, libraries loading. It is Snakemake's when no job is there at all.
Jobs that work shorter than they start are counted by stage.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sida.files.atomic import read_jsonl, write_json
from sida.runtime.provenance import environment

LIMIT, SNAKEMAKE = 0.25, 0.10


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def main(out: Path) -> bool:
    """Runs the demo once in a copy of the sources and reports where its time goes."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        for name in ("Snakefile", "workflow", "profiles", "config", "studies", "sida", "eval", "environment.yml"):
            (workspace / name).symlink_to(root / name)
        (workspace / "results").mkdir()
        shutil.copytree(root / "results" / "published", workspace / "results" / "published")
        log = workspace / "timing.jsonl"
        start = time.time()
        subprocess.run(
            [str(Path(sys.executable).parent / "snakemake"), "--cores", "2"],
            cwd=workspace,
            env={**os.environ, "SIDA_TIMING_LOG": str(log), "PYTHONPATH": str(workspace)},
            check=True,
        )
        wall = time.time() - start
        records = read_jsonl(log)
    working = covered([(record["ready"], record["end"]) for record in records])
    overhead = 1 - working / wall
    snakemake = 1 - covered([(record["start"], record["end"]) for record in records]) / wall
    stages: dict[str, dict[str, float]] = {}
    for record in records:
        stage = stages.setdefault(record["verb"], {"jobs": 0, "short": 0, "seconds": 0.0, "start_up": 0.0})
        stage["jobs"] += 1
        stage["short"] += record["end"] - record["ready"] < record["ready"] - record["start"]
        stage["seconds"] += record["end"] - record["ready"]
        stage["start_up"] += record["ready"] - record["start"]
    print(f"{'stage':<16}{'jobs':>6}{'work s':>10}{'start-up s':>12}{'shorter than start-up':>23}")
    for verb, stage in stages.items():
        print(
            f"{verb:<16}{stage['jobs']:>6.0f}{stage['seconds']:>10.1f}{stage['start_up']:>12.1f}{stage['short']:>23.0f}"
        )
    print(f"wall {wall:.0f} s; Snakemake and start-up {100 * overhead:.1f} % (limit {100 * LIMIT:.0f} %), ", end="")
    print(f"Snakemake alone {100 * snakemake:.1f} % (limit {100 * SNAKEMAKE:.0f} %)")
    result = {"wall_seconds": wall, "overhead_share": overhead, "snakemake_share": snakemake, "limit": LIMIT}
    result |= {"snakemake_limit": SNAKEMAKE, "stages": stages}
    write_json(out, {**json.loads(json.dumps(result)), "environment": environment()})
    return overhead <= LIMIT and snakemake <= SNAKEMAKE
