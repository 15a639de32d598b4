"""``sida-eval show``: prints the main table of a preset and the paths of its results."""

from __future__ import annotations

import argparse

HELP = "Print the main table of a finished preset with the paths of its report, figures and LaTeX."
EXAMPLES = """examples:
  sida-eval show results/demo
  sida-eval show results/released --table table4
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", nargs="?", default="results/demo", metavar="DIR", help="results of a preset")
    parser.add_argument("--preset-dir", dest="preset_dir", metavar="DIR", help="the same as the positional DIR")
    parser.add_argument("--table", metavar="NAME", help="table to print (default main, else the first one)")


def run(args: argparse.Namespace) -> int:
    """Prints the overview."""
    from eval.report.overview import overview
    from sida.cli import terminal

    print(overview(args.preset_dir or args.results, args.table, terminal.colour(), terminal.width()))
    return 0
