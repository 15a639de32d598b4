"""``sida-eval figure``: builds a figure as PDF, PNG and CSV."""

from __future__ import annotations

import argparse

from eval.commands._options import shared

HELP = "Build a figure: vector .pdf with embedded fonts, .png and the data as .csv."
EXAMPLES = """examples:
  sida-eval figure --layout config/figures/convergence.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --results results/demo --out results/demo/figures/convergence.pdf
  sida-eval figure --layout config/figures/samples.yaml --runs studies/demo/runs.tsv --results results/demo \\
      --spec generators.json --out results/demo/figures/samples.pdf
  sida-eval figure --layout figure3 --runs studies/papers/runs/released.tsv --results results/released \\
      --log cifar10-uncond-sid-a1.2=metric-fid50k_full-alpha-1.200000.jsonl --out figure3.pdf

--spec is a JSON object: {"generators": [...]} has the specs of `sida-eval measure` for grids of samples. The workflow
writes this file: results/<preset>/specs/figures/<figure>.json.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--layout", required=True, metavar="YAML", help="layout: a file, or a name in config/figures")
    required = ["--runs", "--results"]
    shared(parser, *required, "--measurements", "--published", "--scope", required=required)
    parser.add_argument("--spec", metavar="JSON", help="generators to sample: JSON text or a file")
    parser.add_argument("--out", required=True, metavar="FILE.pdf", help="written with .png and .csv beside it")
    parser.add_argument("--log", action="append", default=[], metavar="RUN=JSONL", help="official metric log of a run")


def run(args: argparse.Namespace) -> int:
    """Builds and writes the figure."""
    from eval.commands._options import pairs, parse_scope
    from eval.figures import build_figure

    settings = {key: getattr(args, key) for key in ("measurements", "spec", "published")}
    settings |= {"logs": pairs(args.log, "--log"), "scope": parse_scope(args.scope)}
    paths, remarks = build_figure(args.layout, args.runs, args.results, args.out, **settings)
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])})")
    for remark in remarks:
        print(f"  {remark}")
    return 0
