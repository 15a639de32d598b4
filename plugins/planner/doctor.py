"""Checks a machine for the requirements of targets; each missing requirement has a command that fixes it."""

import dataclasses
import importlib.util
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from sida.assets.cache import cache_dir, check_reachable, unfetchable_error
from sida.config.lookup import how_to_install
from sida.errors import UserError
from sida.eval.report.paper import INSTALL, missing_latex
from sida.machine import OTHER_TORCH, code_fault, why_no_gpu
from sida.plugins.planner.plan import LEFT_OUT, Plan, make_plan
from sida.workflow.checks import OPENING
from sida.workflow.planning.costs import SMALLER, SPARE, too_large
from sida.workflow.preset.outside_code import NotAllowedError, origin
from sida.workflow.preset.specs import missing_data

CheckVerdict = Literal["ok", "note", "missing"]


#: Most ids of missing assets that are listed; more are counted by kind.
_MOST_IDS = 12


@dataclasses.dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        subject: ``code``, ``GPU``, ``disk``, ``packages``, ``data``, ``assets`` or ``LaTeX``.
        verdict: ``ok``; ``note``: not required; ``missing``: required and missing.
        text: Description of the result.
        remedy: Command or instruction that fixes it; empty if there is nothing to do.
        items: Things that the text counts, a line each.
    """

    subject: str
    verdict: CheckVerdict
    text: str
    remedy: str = ""
    items: Sequence[str] = ()


def examine(files: Sequence[Path], targets: Sequence[str]) -> list[Check]:
    """Checks all requirements of the jobs behind targets on this machine.

    Args:
        files: Files of the preset; later ones win.
        targets: See :func:`sida.plugins.planner.plan.make_plan`.

    Raises:
        UserError: No such target.
    """
    try:
        plan = make_plan(files, targets)
    except NotAllowedError as error:
        code = Check("code", "missing", f"{error.where}: {error.fault}", error.remedy)
        return [code, Check("preset", "note", "not checked: it cannot be read without its code")]
    checks = (_code, _gpu, _disk, _packages, _data, _assets, _latex, _rows)
    return [finding for check in checks for finding in check(plan)]


def _code(plan: Plan) -> Iterator[Check]:
    for name, where in plan.preset.code.items():
        yield Check("code", "note", f"{where} imports {origin(name)}; allowed")
    if not plan.preset.code:
        yield Check("code", "ok", "none from outside the package")


def _gpu(plan: Plan) -> Iterator[Check]:
    if not plan.preset.settings.device.startswith("cuda"):
        yield Check("GPU", "ok", "none is asked for (device: cpu)")
        return
    import torch

    gpus, count = plan.preset.settings.gpus, torch.cuda.device_count() if torch.cuda.is_available() else 0
    need = max((job.memory_gb for job in plan.jobs.values()), default=0.0)
    if not count:
        size = f" with {need:.0f} GB each" if need >= 1 else ""
        reason, remedy = why_no_gpu()
        yield Check("GPU", "missing", f"the preset asks for {gpus}{size}, but {reason}", remedy)
        return
    for index in range(count):
        if fault := code_fault(index):
            yield Check("GPU", "missing", f"GPU {index}: {fault}", OTHER_TORCH)
    memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(count)) / 1e9
    large = too_large(plan.jobs.values(), memory, "a GPU here")
    if large:
        close = need <= SPARE * memory
        text = f"{large}; plans lie up to a quarter above what is reserved" if close else large
        yield Check("GPU", "note" if close else "missing", text, SMALLER)
    elif count < gpus:
        yield Check("GPU", "note", f"{count} of {gpus}; the results are the same", f"--config gpus={count}")
    else:
        yield Check("GPU", "ok", f"{count} × {memory:.0f} GB, {need:.0f} GB are needed")


def _disk(plan: Plan) -> Iterator[Check]:
    """Compares free and required space: cache, archives and results may be on different disks."""
    needs, folders = defaultdict[int, float](float), dict[int, Path]()
    for job in plan.jobs.values():
        path = cache_dir() if job.kind == "fetch" else Path(job.name if job.kind == "data" else plan.preset.results)
        existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        device = os.stat(existing).st_dev
        folders.setdefault(device, existing)
        needs[device] += job.disk_gb
    for device, need in needs.items():
        folder = folders[device]
        free = shutil.disk_usage(folder).free / 1e9
        text = f"{free:,.0f} GB free at {folder}, {need:,.1f} GB are needed"
        remedy = "free some, or work in another folder; SIDA_CACHE names the one of downloads"
        yield Check("disk", *(("missing", text, remedy) if free < need else ("ok", text)))


def _packages(plan: Plan) -> Iterator[Check]:
    latents = any(job.name.startswith("sd-vae") for job in plan.jobs.values()) or any(
        plan.preset.rows[job.name].protocol.decodes for job in plan.jobs.values() if job.name in plan.preset.runs
    )
    # The plan has used torch and Snakemake.
    if latents and importlib.util.find_spec("diffusers") is None:
        yield Check("packages", "missing", "diffusers is not installed", how_to_install("diffusers>=0.27"))
    else:
        yield Check("packages", "ok", "torch, diffusers, snakemake" if latents else "torch, snakemake")


def _data(plan: Plan) -> Iterator[Check]:
    archives = [job.name for job in plan.jobs.values() if job.kind == "data"]
    if archives:
        yield Check("data", "note", f"{', '.join(archives)}: made by the workflow from their sources")
    jobs = [job for job in plan.jobs if job.partition("/")[0] in OPENING]
    missing = {path for job in jobs if (path := missing_data(plan.preset, job, archives))}
    for path in sorted(missing):
        yield Check("data", "missing", f"{path} is not there", f"sida data prepare --source PICTURES --out {path}")
    if not archives and not missing:
        yield Check("data", "ok", "all there")


def _assets(plan: Plan) -> Iterator[Check]:
    """Runs the checks that a run makes before its first job."""
    names = sorted(job.name for job in plan.jobs.values() if job.kind == "fetch")
    missing = [asset for asset in map(plan.costs.registry.__getitem__, names) if not asset.path.exists()]
    for asset in (asset for asset in missing if not asset.urls):
        yield Check("assets", "missing", f"{asset.id} has no link", str(unfetchable_error(asset)))
    loaded = [asset for asset in missing if asset.urls]
    ids, size = [asset.id for asset in loaded], sum(map(plan.costs.assumptions.gigabytes, loaded))
    kinds = Counter(asset.kind for asset in loaded)
    items = ids if len(ids) <= _MOST_IDS else [f"{kind}: {count}" for kind, count in sorted(kinds.items())]
    text, command = f"{len(loaded)} to download, {size:,.1f} GB", f"sida assets fetch {' '.join(ids)}"
    try:
        check_reachable(names)
    except UserError as fault:
        why = fault.fault.partition(" (")[2].rstrip(")")
        yield Check("assets", "missing", f"{text}: {why}", fault.remedy, items)
        loaded = []
    if loaded:
        remedy = command if len(loaded) < 6 else "the workflow fetches them first"
        yield Check("assets", "note", text, remedy, items)
    if not missing:
        yield Check("assets", "ok", "all in the cache")


def _latex(plan: Plan) -> Iterator[Check]:
    if plan.preset.settings.paper:
        missing = missing_latex()
        left_out = ("note", f"paper.pdf is left out: {missing}", f"{INSTALL} lmodern")
        yield Check("LaTeX", *(left_out if missing else ("ok", "makes paper.pdf")))


def _rows(plan: Plan) -> Iterator[Check]:
    if plan.asked:
        yield Check(
            "rows",
            "note",
            f"{len(plan.asked)} {LEFT_OUT}",
            items=[f"{run}: {plan.preset.left_out[run]}" for run in plan.asked],
        )
