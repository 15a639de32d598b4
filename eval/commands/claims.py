"""``sida-eval claims``: decide claims by rule and write the verdicts with their evidence."""

from __future__ import annotations

import argparse

HELP = "Decide claims by rule: supported, contradicted or not decided here, with the evidence."
EXAMPLES = """examples:
  sida-eval claims --claims studies/demo/claims.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --results results/demo --out results/demo/claims.md
  sida-eval claims --claims studies/papers/claims.yaml --out claims.md      (by the published numbers alone)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--claims", required=True, metavar="YAML", help="claims and rules (studies/papers/claims.yaml)")
    parser.add_argument("--measurements", metavar="CSV", help="measurements.csv")
    parser.add_argument("--runs", metavar="TSV", help="sample sheet")
    parser.add_argument("--results", metavar="DIR", help="results of the preset (holds students/<run>/ with the logs)")
    parser.add_argument(
        "--scope", metavar="NAME", help="only claims of this scope (default: those about measured runs)"
    )
    parser.add_argument("--published", metavar="DIR", help="folder of published numbers (default results/published)")
    parser.add_argument("--out", required=True, metavar="FILE.md", help="written with .json and .html beside it")


def run(args: argparse.Namespace) -> int:
    """Decides the claims and writes the verdicts."""
    from eval.claims.verdicts import decide_claims

    paths, counts = decide_claims(
        args.claims,
        args.out,
        measurements=args.measurements,
        runs=args.runs,
        results=args.results,
        scope=args.scope,
        published=args.published,
    )
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])}): {counts}")
    return 0
