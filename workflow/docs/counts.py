"""Functions for markers: counts of jobs, planned costs, printed numbers, tables of settings."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sida.assets import load_registry
from sida.errors import UserError
from sida.files.text_files import read_csv
from workflow.docs.settings import kinds, method_options, settings
from workflow.docs.words import block
from workflow.preset.files import find_preset

if TYPE_CHECKING:
    from eval.results.sheet import SheetRow
    from workflow.planning.jobs import Jobs

CARD = "H200"


def functions(root: Path) -> dict[str, Callable[..., str]]:
    """Functions by their names in markers."""
    of_root: list[Callable[..., str]] = [jobs, measured, planned, hours, measuring, trainings, tuning, unpinned]
    found: dict[str, Callable[..., str]] = {"published": published, "settings": settings, "kinds": kinds}
    found |= {"method_options": method_options}
    return found | {function.__name__: functools.partial(function, root) for function in of_root}


def jobs(
    root: Path, preset: str, *targets: str, rule: str = "total", without: str | None = None, **settings: object
) -> str:
    """Number of jobs of a preset from a dry run without results, and without ``paper.pdf``, which needs LaTeX.

    Args:
        root: The repository.
        preset: Name of the preset.
        targets: Targets; none is the whole preset.
        rule: Rule whose jobs are counted; by default all rules.
        without: Method whose rows are left out.
        settings: Changed keys of the preset.
    """
    plan = _dry_run(root, str(find_preset(preset)), targets, without, tuple(settings.items()))
    if rule not in plan:
        raise UserError("", f"the dry run of {preset} has no jobs of '{rule}'")
    return f"{plan[rule]:,}"


@functools.cache
def _dry_run(
    root: Path, config: str, targets: tuple[str, ...], without: str | None, settings: tuple[tuple[str, object], ...]
) -> dict[str, int]:
    changes = {"paper": False, **dict(settings)}
    with tempfile.TemporaryDirectory() as folder:
        if without is not None:
            changes["runs"] = _sheet_without(root / config, without, Path(folder) / "own.tsv")
        call = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--nolock", "--cores", "1", *targets]
        call += ["--configfile", config, "--config", *(f"{key}={value}" for key, value in changes.items())]
        done = subprocess.run(call, cwd=root, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    if done.returncode or not found:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise UserError("", f"the dry run of {config} failed ({last[-1] if last else 'no output'})")
    return {rule: int(number) for rule, number in found}


def _sheet_without(config: Path, method: str, path: Path) -> Path:
    from workflow.preset import Preset

    lines = Path(Preset.load(config).sheet).read_text(encoding="utf-8").splitlines(keepends=True)
    column = next(line for line in lines if not line.startswith("#")).split("\t").index("method")
    kept = [line for line in lines if line.startswith("#") or line.split("\t")[column] != method]
    path.write_text("".join(kept), encoding="utf-8")
    return path


def measured(root: Path, preset: str, *tables: str) -> str:
    """Number of rows that are measured for tables, each row once; without tables for the whole preset."""
    from workflow.preset import Preset
    from workflow.preset.specs import find_needs

    loaded = Preset.load(find_preset(preset))
    if not tables:
        return str(len(loaded.measurable))
    return str(
        len({run for name in tables for run in find_needs(loaded.layout("tables", name), loaded.measurable).measured})
    )


def published(key: str) -> str:
    """A published number as printed."""
    from eval.results.published import load_published, published_number

    return published_number(load_published(), key, "results/published").text


def planned(root: Path, preset: str, target: str | Sequence[str], key: str) -> str:
    """A total of the plan (:func:`workflow.planning.plan.make_plan`) of targets on one H200, without finished jobs."""
    from workflow.planning.plan import make_plan

    targets = [target] if isinstance(target, str) else target
    value = make_plan(_plan(root, preset), targets, 1)["totals"][key]
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def trainings(root: Path, preset: str, part: str) -> str:
    """Range of hours of one H200 for the distillations of a preset.

    Args:
        root: The repository.
        preset: Name of the preset.
        part: ``tables``: SiD, SiDA and SiD2A in Tables 1 to 7; ``others``: the rest.
    """
    plan = _plan(root, preset)
    chosen = [run.run for run in plan.preset.students() if _shown_in_tables(run) == (part == "tables")]
    spent = [plan.costs.student(name).gpu_hours for name in chosen]
    return f"{min(spent):,.0f} to {max(spent):,.0f}"


def hours(root: Path, preset: str) -> str:
    """Table of the trainings of SiD, SiDA and SiD2A: million images and hours of one H200, by teacher."""
    plan = _plan(root, preset)
    cells: dict[str, dict[tuple[str, float], str]] = {}
    memory: dict[str, float] = {}
    for run in filter(_shown_in_tables, plan.preset.students()):
        job, name = plan.costs.student(run.run), str(run.teacher).removeprefix("teacher-")
        millions = job.facts["images"] / 1e6
        text = f"{millions:.{0 if millions >= 100 else 1}f}: {job.gpu_hours:,.0f} h"
        cells.setdefault(name, {})[run.method, 1.0 if run.alpha is None else float(run.alpha)] = text
        memory[name] = max(memory.get(name, 0.0), job.memory_gb)
    columns = {("sid", 1.0): "SiD, α = 1.0", ("sid", 1.2): "SiD, α = 1.2", ("sida", 1.0): "SiDA"}
    columns |= {("sid2a", 1.0): "SiD2A, α = 1.0", ("sid2a", 1.2): "SiD2A, α = 1.2"}
    lines = [f"| teacher | {' | '.join(columns.values())} | memory of a GPU |", "|---" * (len(columns) + 2) + "|"]
    for name, row in cells.items():
        lines.append(f"| {name} | {' | '.join(row.get(key, '') for key in columns)} | {memory[name]:.0f} GB |")
    return block(lines)


def measuring(root: Path, preset: str, part: str = "") -> str:
    """Hours of one H200 for measuring a preset's generators: networks, decoders and feature networks.

    Args:
        root: The repository.
        preset: Name of the preset.
        part: ``one`` or ``several``: the sum over generators with one step or with more; empty: a table by protocol.
    """
    plan = _plan(root, preset)
    spent: dict[str, dict[str, list[float]]] = {}
    for job in plan.behind([]).values():
        if job.kind == "measure":
            steps = "several" if (plan.preset.specs.measurement(job.name)["nfe"] or 1) > 1 else "one"
            protocol = plan.preset.protocol(plan.preset.runs[job.name]).name
            spent.setdefault(protocol, {"one": [], "several": []})[steps].append(job.gpu_hours)
    if part:
        return f"{sum(sum(some[part]) for some in spent.values()):,.0f}"
    lines = ["| protocol | one step: generators | hours | several steps: generators | hours |", "|---|---|---|---|---|"]
    for name, some in spent.items():
        cells = [f"{len(one)} | {sum(one):,.1f}" if one else " | " for one in some.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return block(lines)


def tuning(root: Path, study: str) -> str:
    """Table of the trials that chose a study's settings (``studies/STUDY/tuning.csv``), with a row for each method."""
    cells: dict[str, list[str]] = {}
    for _, row in read_csv(root / "studies" / study / "tuning.csv")[1]:
        text = f"{row['settings']}: {row['fd']}"
        cells.setdefault(row["method"], []).append(f"**{text}**" if row["kept"] else text)
    lines = ["| method | settings and lowest FD; bold: the ones that are compared |", "|---|---|"]
    return block([*lines, *(f"| {name} | {'; '.join(some)} |" for name, some in cells.items())])


def unpinned(root: Path) -> str:
    """Number of assets without a registered hash, as ``108 of 112``."""
    assets = load_registry(root / "config/assets.tsv").values()
    return f"{sum(not asset.sha256 for asset in assets)} of {len(assets)}"


def _plan(root: Path, preset: str) -> Jobs:
    from workflow.planning.costs import Costs
    from workflow.planning.jobs import Jobs
    from workflow.preset import Preset

    return Jobs(Costs(Preset.load(find_preset(preset)), CARD, fresh=True))


def _shown_in_tables(run: SheetRow) -> bool:
    """Whether a row is SiD, SiDA or SiD2A in Tables 1 to 7."""
    return run.method in ("sid", "sida", "sid2a") and run.family != "Ablation"
