"""``sida-eval paper``: one PDF with all tables, figures, claims and their provenance."""

from __future__ import annotations

import argparse

from eval.commands._options import shared
from sida.cli.arguments import existing

HELP = "Collect all tables and figures of a preset in paper.tex and, where LaTeX is installed, paper.pdf."
EXAMPLES = """examples:
  sida-eval paper results/demo
  sida-eval paper results/released --title 'Released generators' --require-pdf

LaTeX: apt-get install --no-install-recommends texlive-latex-recommended texlive-science (lmodern makes nicer fonts).
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", type=existing(), metavar="DIR", help="results of a preset")
    shared(parser, "--title", "--own")
    parser.add_argument("--require-pdf", action="store_true", help="fail where LaTeX is not installed")


def run(args: argparse.Namespace) -> int:
    """Builds the document."""
    from eval.report.paper import build_paper, missing_latex

    source, pdf = build_paper(args.results, args.title, args.own)
    if pdf is None:
        print(f"{source} written; paper.pdf skipped: {missing_latex()}")
        return 1 if args.require_pdf else 0
    print(f"{pdf} (and {source.name})")
    return 0
