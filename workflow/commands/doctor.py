"""``sida doctor``: requirements of a preset that are missing on this machine, and how to fix each."""

from __future__ import annotations

import argparse

from workflow.commands.plan import preset_argument

HELP = "Report the requirements of a preset that are missing on this machine, and the command that fixes each."
EXAMPLES = """examples:
  sida doctor --preset paper tables/table1.tex
  sida doctor --preset studies/papers/released.yaml
  sida doctor --preset demo --json

Checks custom code that the preset names (it is not run before you allow it), GPU memory, disk, packages, data, assets,
LaTeX and scheduler; downloads and trains nothing. Exit status 1 if a requirement is missing; notes are about things
that are not required.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="products or rows; none: the whole preset")
    preset_argument(parser, "preset; `sida presets` lists them", required=True)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; exit status 1 if a requirement is missing."""
    import dataclasses
    import json

    from workflow.commands.plan import make_jobs
    from workflow.planning.doctor import Check, examine, examine_code
    from workflow.preset.files import find_preset

    findings = examine_code(find_preset(args.preset))
    if any(finding.verdict == "missing" for finding in findings):
        findings.append(Check("preset", "note", "not checked: it cannot be read without its code"))
    else:
        findings += examine(make_jobs(args.preset, None, 1), args.targets)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.verdict:<7} {finding.what}: {finding.text}")
            if finding.remedy:
                print(f"          → {finding.remedy}")
    return int(any(finding.verdict == "missing" for finding in findings))
