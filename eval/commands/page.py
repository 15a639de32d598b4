"""``sida-eval page``: all tables, figures and verdicts of a preset on one HTML page."""

from __future__ import annotations

import argparse

from eval.commands._options import output, shared
from sida.cli.arguments import existing

HELP = "Collect all tables, figures and verdicts of a preset on one HTML page that stands alone."
EXAMPLES = """examples:
  sida-eval page results/demo --out results/demo/index.html
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", type=existing(), metavar="DIR", help="results of a preset")
    out = output("--out", ".html")
    parser.add_argument("--out", required=True, type=out, metavar="FILE.html", help="page to write")
    shared(parser, "--title", "--own")
    parser.add_argument("--again", default="", metavar="COMMAND", help="command that makes the results again (.html)")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    from eval.report.page import write_index

    print(write_index(args.results, args.out, args.title, args.own, args.again))
    return 0
