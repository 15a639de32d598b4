"""Counts of presets and claims, printed numbers and tables of settings, for the documentation."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sida.errors import UserError
from workflow.docs.costs import hours, measuring, planned, trainings
from workflow.docs.settings import kinds, settings


def jobs(root: Path, config: str, *words: str) -> str:
    """Jobs of a preset by a dry run as if nothing were there yet, without ``paper.pdf``, which not every machine makes.

    ``KEY=VALUE`` changes the preset, ``without=METHOD`` leaves rows out; other words are targets.
    """
    return rules(root, config, "total", *words)


def rules(root: Path, config: str, rule: str, *words: str) -> str:
    """Jobs of one rule, counted like :func:`jobs`."""
    plan = _plan(root, config, words)
    if rule not in plan:
        raise UserError(f"the dry run of {config} has no jobs of '{rule}'")
    return f"{plan[rule]:,}"


@functools.cache
def _plan(root: Path, config: str, words: tuple[str, ...]) -> dict[str, int]:
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    targets = [word for word in words if "=" not in word]
    method = settings.pop("without", None)
    with tempfile.TemporaryDirectory() as folder:
        if method is not None:
            settings["runs"] = str(_sheet_without(root, config, method, Path(folder) / "own.tsv"))
        changes = [f"{key}={value}" for key, value in ({"paper": "False"} | settings).items()]
        call = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--nolock", "--cores", "1", *targets]
        call += ["--configfile", config, "--config", *changes]
        done = subprocess.run(call, cwd=root, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    if done.returncode or not found:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"the dry run of {config} failed ({last[-1] if last else 'no output'})")
    return {rule: int(number) for rule, number in found}


def _sheet_without(root: Path, config: str, method: str, path: Path) -> Path:
    from workflow.preset import Preset

    lines = (root / Preset.load(root / config).sheet).read_text(encoding="utf-8").splitlines(keepends=True)
    head = next(line for line in lines if not line.startswith("#")).split("\t")
    place = head.index("method")
    kept = [line for line in lines if line.startswith("#") or line.split("\t")[place] != method]
    path.write_text("".join(kept), encoding="utf-8")
    return path


def measured(root: Path, config: str, *layouts: str) -> str:
    """Rows that are measured for some layouts (``tables/table1``), each row once; for the whole preset without any."""
    from eval.report.needs import find_needs
    from workflow.preset import Preset

    preset = Preset.load(root / config)
    if not layouts:
        return str(len(preset.measurable))
    named = [root / "config" / f"{layout}.yaml" for layout in layouts]
    return str(len({run for path in named for run in find_needs(path, preset.measurable).measured}))


def rows(root: Path, config: str) -> str:
    """Rows of a preset's sample sheet."""
    from workflow.preset import Preset

    return f"{len(Preset.load(root / config).runs):,}"


def claims(root: Path, path: str, scope: str, part: str = "all") -> str:
    """Claims of a scope; with ``ruled`` those that have a rule, with ``reasoned`` those that only have a reason."""
    from eval.claims import load_claims

    chosen = [claim for claim in load_claims(root / path) if claim.scope == scope]
    if part not in ("all", "ruled", "reasoned"):
        raise UserError(f"'{part}' must be all, ruled or reasoned")
    return str(sum(part == "all" or bool(claim.parts) == (part == "ruled") for claim in chosen))


def published(root: Path, key: str) -> str:
    """A published number as it was printed."""
    from eval.results.published import load_published, published_number

    return published_number(load_published(), key, "results/published").text


COUNTS: dict[str, Callable[..., str]] = {
    "jobs": jobs, "rules": rules, "rows": rows, "measured": measured, "claims": claims, "published": published,
    "settings": settings, "kinds": kinds, "hours": hours, "planned": planned, "measuring": measuring,
    "trainings": trainings,
}  # fmt: skip
