"""``sida-eval experiment``: the page of one experiment, with its prediction and answer."""

from __future__ import annotations

import argparse

HELP = "Answer one experiment: decide its claims and write a page with question, prediction, answer, table and figure."
EXAMPLES = """examples:
  sida-eval experiment --spec results/miniature/specs/experiments/teachers.json \\
      --claims studies/miniature/claims.yaml --measurements results/miniature/collected/experiments/teachers.csv \\
      --results results/miniature --out results/miniature/experiments/teachers.html

The workflow writes spec and measurements:
  snakemake --configfile studies/miniature/preset.yaml -- experiments/teachers.html
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--spec", required=True, metavar="JSON", help="the experiment and the rows of the sheet it needs"
    )
    parser.add_argument("--claims", required=True, metavar="YAML", help="claims and rules")
    parser.add_argument("--measurements", metavar="CSV", help="measurements of these rows")
    parser.add_argument("--results", required=True, metavar="DIR", help="results of the preset")
    parser.add_argument("--own", metavar="DIR", help="folder of the preset, if it has custom layouts (DIR/figures)")
    parser.add_argument("--again", default="", metavar="COMMAND", help="command that makes the page again")
    parser.add_argument("--out", required=True, metavar="FILE.html", help="written with .md and .json beside it")


def run(args: argparse.Namespace) -> int:
    """Decides the claims of the experiment and writes its page."""
    from eval.report.experiment import write_experiment

    paths, answer = write_experiment(
        args.spec,
        args.claims,
        args.results,
        args.out,
        measurements=args.measurements,
        own=args.own,
        again=args.again,
    )
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])}): {answer}")
    return 0
