"""``sida-eval page``: all tables, figures and verdicts of a preset on one Markdown page."""

from __future__ import annotations

import argparse

HELP = "Collect all tables, figures and verdicts of a preset on one Markdown page with its pictures."
EXAMPLES = """examples:
  sida-eval page results/demo --out demo.md
  sida-eval page results/miniature --out docs/miniature.md --title 'The paper in miniature'
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", metavar="DIR", help="results of a preset")
    parser.add_argument("--out", required=True, metavar="PAGE.md", help="page to write; pictures go to PAGE/ beside it")
    parser.add_argument("--title", default="", help="headline")
    parser.add_argument("--own", metavar="DIR", help="folder of the preset, if it has layouts of its own (DIR/figures)")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    from eval.page import write_page

    page, *pictures = write_page(args.results, args.out, args.title, args.own)
    print(f"{page} with {len(pictures)} pictures")
    return 0
