"""The verb ``presets``, and the preset as an argument of other verbs."""

import argparse
import itertools
import re
import textwrap
from pathlib import Path

from sida.cli.main import Verb
from sida.workflow.cli import terminal_width
from sida.workflow.preset.files import presets, read_preset


def preset_argument(parser: argparse.ArgumentParser) -> None:
    """Declares the preset and its targets, for all verbs alike."""
    parser.add_argument("preset", metavar="PRESET", help="name (`sida presets`), or file or folder of one")
    parser.add_argument(
        "targets", nargs="*", default=[], metavar="TARGET", help="products or rows; none: the whole preset"
    )


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb has none."""


def _presets(args: argparse.Namespace) -> int:
    """Prints the list."""
    parts = [name for name, path in presets().items() if _is_part(path)]
    listed = list_presets()
    longest = max(map(len, listed))
    for name, (about, needs) in listed.items():
        if parts and name == parts[0]:
            print("\nparts and variants of these studies:")
        print(f"{name:<{longest}} needs {needs}")
        first = re.split(r"(?<=[.]) (?=[A-Z`])", about)[0]
        print(textwrap.fill(first, terminal_width(), initial_indent="  ", subsequent_indent="  "), flush=True)
    print("more about one: the top of its file in studies/")
    print("run one: sida run PRESET; cost in detail: sida plan PRESET; requirements: sida doctor PRESET")
    return 0


def list_presets() -> dict[str, tuple[str, str]]:
    """The comment at the top of each preset's file, and what the preset needs; parts of studies are the last."""
    descriptions = {}
    for name, path in sorted(presets().items(), key=lambda item: _is_part(item[1])):
        lines = itertools.takewhile(re.compile("# [^ ]").match, path.read_text(encoding="utf-8").splitlines())
        about = " ".join(line.removeprefix("# ") for line in lines)
        needs = "a processor" if read_preset([path])[0].get("device", "cpu") == "cpu" else "a GPU"
        descriptions[name] = (about, needs)
    return descriptions


def _is_part(path: Path) -> bool:
    """Whether a preset is a part of the study beside it, or changes another preset."""
    if path.name == "preset.yaml":
        return False
    changes = any(line.startswith("base:") for line in path.read_text(encoding="utf-8").splitlines())
    return changes or path.with_name("preset.yaml").exists()


PRESETS = Verb(
    """examples:
  sida presets
  sida plan gpu       (hours, downloads, disk and memory of one of them)
  sida doctor gpu     (all its requirements, compared with this machine)
""",
    _no_arguments,
    _presets,
)
