"""``sida analyse``: computes an analysis of a preset for one row."""

from __future__ import annotations

import argparse

from eval.commands._options import output

HELP = "Compute an analysis of a study: facts and curves of a row's network, by a function of the study."
EXAMPLES = """examples:
  sida analyse --spec results/miniature/specs/analyses/barriers/line-gdd.json --out line-gdd.json
  sida analyse --spec '{"analysis": "model", "function": "studies/alpha/analysis.py:MODEL"}' --out model.json

A preset's key `analyses` names functions and rows, whose specs the workflow writes.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--spec", required=True, metavar="JSON", help="function, options, inputs: JSON text or file")
    out = output("--out", ".json")
    parser.add_argument("--out", required=True, type=out, metavar="FILE.json", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Computes the analysis and writes its file."""
    from eval.results.analyses import analyse
    from sida.config.settings import load_spec

    found = analyse(load_spec(args.spec), args.out)
    print(f"{args.out}: {len(found['facts'])} facts, columns {', '.join(found['curves']) or 'none'}")
    return 0
