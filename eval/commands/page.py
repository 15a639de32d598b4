"""``sida-eval page``: all tables, figures and verdicts of a preset on one HTML page."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing

HELP = "Collect all tables, figures and verdicts of a preset on one HTML page that stands alone."
EXAMPLES = """examples:
  sida-eval page results/demo --out results/demo/index.html
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", type=existing(), metavar="DIR", help="results of a preset")
    parser.add_argument("--out", required=True, metavar="FILE.html", help="page to write")
    parser.add_argument("--title", default="", help="headline")
    parser.add_argument("--own", metavar="DIR", help="folder of the preset, if it has custom layouts (DIR/figures)")
    parser.add_argument("--experiments", metavar="YAML", help="questions to answer before everything else")
    parser.add_argument("--again", default="", metavar="COMMAND", help="command that makes the results again (.html)")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    from pathlib import Path

    from eval.claims.experiments import load_experiments
    from eval.report.index import write_index
    from sida.errors import UserError

    if Path(args.out).suffix != ".html":
        raise UserError(f"--out {args.out}", "must end in .html")
    experiments = load_experiments(args.experiments) if args.experiments else []
    print(write_index(args.results, args.out, args.title, args.own, args.again, experiments))
    return 0
