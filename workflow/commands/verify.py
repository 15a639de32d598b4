"""``sida verify``: checks that a results folder is unchanged and consistent."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing
from sida.errors import UserError

HELP = "Check a results folder: hashes, parents, and tables against measurements against trials."
EXAMPLES = """examples:
  sida verify results/demo
  sida verify ~/Downloads/their-results --quiet          (faults and the summary alone)

Nothing in the folder is executed or changed, and no link is followed. One line per fault; exit status 1 if there is
any. Hashes find damage and mistakes; they do not prove who made a file. Figures, verdicts and pages are compared with
the manifest, not recomputed.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("folder", type=existing(), metavar="DIR", help="results folder of a preset")
    parser.add_argument("--quiet", action="store_true", help="leave out remarks on files that are not compared")


def run(args: argparse.Namespace) -> int:
    """Prints faults, remarks and the summary."""
    from workflow.archive.verify import verify

    report = verify(args.folder)
    if not report.counts and not report.faults:
        raise UserError(args.folder, "nothing in it can be checked", "name the results of a preset: results/demo")
    for line in report.faults:
        print(f"fault   {line}")
    for line in [] if args.quiet else report.remarks:
        print(f"remark  {line}")
    print(report.summary)
    return 1 if report.faults else 0
