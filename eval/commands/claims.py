"""``sida-eval claims``: decide claims by rule and write the verdicts with their evidence."""

from __future__ import annotations

import argparse

from eval.commands._options import shared

HELP = "Decide claims by rule: supported, contradicted or not decided here, with the evidence."
EXAMPLES = """examples:
  sida-eval claims --claims studies/demo/claims.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --results results/demo --out results/demo/claims.md
  sida-eval claims --claims studies/papers/claims.yaml --out claims.md      (by the published numbers alone)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    shared(parser, "--claims", "--measurements", "--runs", "--results", "--published", required=["--claims"])
    parser.add_argument("--out", required=True, metavar="FILE.md", help="written with .json and .html beside it")


def run(args: argparse.Namespace) -> int:
    """Decides the claims and writes the verdicts."""
    from eval.claims import decide_claims

    given = {name: getattr(args, name) for name in ("measurements", "runs", "results", "published")}
    paths, counts = decide_claims(args.claims, args.out, **given)
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])}): {counts}")
    return 0
