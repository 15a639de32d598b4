"""``sida presets``: the presets that are at hand, with their content, cost and need of a GPU."""

from __future__ import annotations

import argparse

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
    import json

    from sida.cli import terminal

    found = list_presets()
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    import textwrap

    for preset in found:
        print(f"{preset['preset']:<12} {preset['runs_here']}")
        print(textwrap.fill(preset["about"], terminal.width(), initial_indent="  ", subsequent_indent="  "))
    print("cost in detail: sida plan --preset NAME; all requirements: sida doctor --preset NAME")
    return 0


def list_presets() -> list[dict[str, str]]:
    """Presets as ``preset``, ``file``, ``title``, ``about`` (the first sentences of its file) and ``runs_here``."""
    import re

    from sida.config.mapping import load_yaml
    from sida.config.resources import find
    from workflow.commands.plan import preset_names

    rows = []
    for name in preset_names():
        path = find("", name)
        settings = load_yaml(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        # The comment at the top, up to the first command or empty line.
        end = next((i for i, line in enumerate(lines) if not re.match("# [^ ]", line)), len(lines))
        about = " ".join(line.removeprefix("# ") for line in lines[:end])
        facts = {"preset": name, "file": str(path), "title": str(settings.get("title", "")), "about": about}
        rows.append(facts | {"runs_here": _runs_here(str(settings.get("device", "cpu")))})
    return rows


def _runs_here(device: str) -> str:
    from sida.config.resources import CHECKOUT

    if not CHECKOUT:
        return "no: the workflow runs from a checkout"
    if device == "cpu":
        return "yes: on the CPU"
    import torch

    return "yes: on the GPU" if torch.cuda.is_available() else "no: needs a GPU (plans and dry runs work)"
