"""``sida presets``: the presets that are at hand, with their content, cost and need of a GPU."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import textwrap

HELP = "List the presets: content and cost of each in a sentence, and whether this machine has the device for it."
EXAMPLES = """examples:
  sida presets
  sida presets --json
  sida plan --preset gpu       (hours, downloads, disk and memory of one of them, computed)
  sida doctor --preset gpu     (all its requirements, compared with this machine)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the list."""
    from sida.cli import terminal

    found = list_presets()
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    for preset in found:
        print(f"{preset['preset']:<12} {preset['runs_here']}")
        print(textwrap.fill(preset["about"], terminal.width(), initial_indent="  ", subsequent_indent="  "))
    print("cost in detail: sida plan --preset NAME; all requirements: sida doctor --preset NAME")
    return 0


def list_presets() -> list[dict[str, str]]:
    """Presets as ``preset``, ``file``, ``title``, ``about`` (the comment at the top of its file) and ``runs_here``."""
    import torch

    from sida.config.mapping import load_yaml
    from sida.config.resources import CHECKOUT, find
    from workflow.commands.plan import preset_names

    gpu = "yes: on the GPU" if torch.cuda.is_available() else "no: needs a GPU (plans and dry runs work)"
    rows = []
    for name in preset_names():
        path = find("", name)
        settings = load_yaml(path)
        lines = itertools.takewhile(re.compile("# [^ ]").match, path.read_text(encoding="utf-8").splitlines())
        about = " ".join(line.removeprefix("# ") for line in lines)
        here = "yes: on the CPU" if settings.get("device", "cpu") == "cpu" else gpu
        facts = {"preset": name, "file": str(path), "title": str(settings.get("title", "")), "about": about}
        rows.append({**facts, "runs_here": here if CHECKOUT else "no: the workflow runs from a checkout"})
    return rows
