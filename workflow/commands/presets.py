"""``sida presets``: the presets that are at hand, with their content, cost and need of a GPU."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import textwrap
from collections.abc import Iterator

HELP = "List the presets that `sida run` can run: cost and content of each, and whether this machine has its device."
EXAMPLES = """examples:
  sida presets
  sida presets --json
  sida plan --preset gpu       (hours, downloads, disk and memory of one of them)
  sida doctor --preset gpu     (all its requirements, compared with this machine)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the list."""
    from sida.cli import terminal

    if args.json:
        print(json.dumps(list(list_presets()), indent=1, ensure_ascii=False))
        return 0
    for preset in list_presets():
        print(f"{preset['preset']:<12} {preset['cost']}; {preset['runs_here']}")
        about = textwrap.fill(preset["about"], terminal.width(), initial_indent="  ", subsequent_indent="  ")
        print(about, flush=True)
    print("run one: sida run NAME; cost in detail: sida plan --preset NAME; requirements: sida doctor --preset NAME")
    return 0


def list_presets() -> Iterator[dict[str, str]]:
    """Presets as ``preset, file, title, about`` (the comment at the top of the file), ``cost, runs_here``."""
    import torch

    from sida.config.resources import CHECKOUT
    from workflow.preset.files import presets, read_preset

    gpu = "runs on the GPU here" if torch.cuda.is_available() else "needs a GPU (plans and dry runs work here)"
    for name, path in presets().items():
        settings = read_preset([path])[0]
        lines = itertools.takewhile(re.compile("# [^ ]").match, path.read_text(encoding="utf-8").splitlines())
        about = " ".join(line.removeprefix("# ") for line in lines)
        here = "runs on the CPU here" if settings.get("device", "cpu") == "cpu" else gpu
        here = here if CHECKOUT else "runs from a checkout"
        facts = {"preset": name, "file": str(path), "title": str(settings.get("title", "")), "about": about}
        yield {**facts, "cost": _cost(name), "runs_here": here}


def _cost(name: str) -> str:
    """Jobs and hours of a whole preset, on one core or one card."""
    from sida.errors import UserError
    from workflow.commands.plan import make_jobs
    from workflow.planning.plan import make_plan, span

    try:
        plan = make_plan(make_jobs(name, None, 1, fresh=True), [], 1)
    except UserError as error:
        return f"no plan ({error})"
    totals = plan["totals"]
    on = "core" if plan["gpu"] == "CPU" else plan["gpu"]
    more = f", {totals['download_gb']:,.0f} GB of downloads" if totals["download_gb"] else ""
    return f"{totals['jobs']} jobs, {span(totals['wall_hours'])} on one {on}{more}"
