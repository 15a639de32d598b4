"""``sida-eval layers``: how much a network's output changes without each of its blocks, by noise level."""

from __future__ import annotations

import argparse

HELP = "Measure how much a network's output changes without each of its blocks, by noise level."
EXAMPLES = """examples:
  sida-eval layers --spec results/questions/specs/layers/teacher-t30.json --out layers.json

A preset's key `layers` names the rows whose specs the workflow writes. docs/reference/statistics.md
says how changes are computed.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--spec", required=True, metavar="JSON", help="network and dataset: JSON text or file")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Measures the blocks and writes the file."""
    from eval.commands._options import check_output
    from eval.measuring.layers import measure_layers
    from sida.config.mapping import load_spec

    check_output(args.out, "--out", ".json")
    print(f"{args.out}: columns {', '.join(measure_layers(load_spec(args.spec), args.out)['curves'])}")
    return 0
