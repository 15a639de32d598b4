"""``sida-eval compare``: two sets of measurements, or one and the published numbers."""

from __future__ import annotations

import argparse

from eval.commands._options import output, pairs, shared

HELP = "Compare two result folders (or one with the published numbers) with significance."
EXAMPLES = """examples:
  sida-eval compare results/demo results/demo-seed1
  sida-eval compare before.csv results/demo/measurements.csv --runs sida-a1.0 --out comparison.md
  sida-eval compare results/released published
  sida-eval compare score.json results/demo --pair "My model=sida-a1.0"

Values that are not comparable are left out; a run without any comparable value is refused, and the field is named.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("first", metavar="A", help="results of a preset, a measurements.csv, or --out of score")
    add("second", metavar="B", help="the same, or the word 'published'")
    add("--runs", nargs="+", metavar="RUN", help="only these runs (default: all common ones)")
    add("--pair", action="append", default=[], metavar="A=B", help="run A of the first against run B of the second")
    shared(parser, "--published")
    page = output("--out", ".md", ".html", ".tex", ".json")
    add("--out", type=page, metavar="FILE", help="also write a page (.md, .html, .tex or .json)")


def run(args: argparse.Namespace) -> int:
    """Compares the measurements, prints the table and writes it."""
    import textwrap
    from pathlib import Path

    from eval.report.compare import compare, compare_published, comparison_table
    from eval.tables.build import RENDERERS
    from eval.tables.render import to_terminal
    from sida.cli import terminal
    from sida.files.atomic import write_text

    if args.second == "published":
        table = compare_published(args.first, args.published)
    else:
        table = comparison_table(compare(args.first, args.second, args.runs, pairs(args.pair, "--pair")))
    width = terminal.width()
    print(to_terminal(table, terminal.colour()))
    print("\n".join(textwrap.fill(note, width) for note in table.notes))
    if args.out:
        write_text(args.out, RENDERERS[Path(args.out).suffix](table))
        print(args.out)
    return 0
