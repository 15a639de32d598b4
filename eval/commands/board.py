"""``sida board``: numbers of several groups on one page, sorted within equal identity."""

from __future__ import annotations

import argparse

from eval.commands._options import output
from sida.cli.arguments import existing

HELP = "Show collected numbers of several groups on one page: a table for each metric and identity, best first."
EXAMPLES = """examples:
  sida board collected/                       (prints Markdown)
  sida board collected/ --out board.html
The folder holds files of `sida score --json` (.jsonl, each line with its origin) and `sida score --out` (.json). Values
that are not comparable (other protocol, reference or feature network) stand in different tables.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("folder", type=existing(), metavar="FOLDER", help="folder of .json and .jsonl files")
    pages = output("--out", ".html", ".md")
    add("--out", type=pages, metavar="PAGE", help="page to write: .html or .md (default: print Markdown)")


def run(args: argparse.Namespace) -> int:
    """Writes or prints the page."""
    from pathlib import Path

    from eval.report.board import board
    from eval.tables.render import pages, to_markdown
    from sida.files.atomic import write_text

    tables = board(args.folder)
    text = "\n\n".join(to_markdown(table).rstrip() for table in tables) + "\n"
    if not args.out:
        print(text, end="")
        return 0
    write_text(args.out, pages("Board of collected results", tables) if Path(args.out).suffix == ".html" else text)
    print(args.out)
    return 0
