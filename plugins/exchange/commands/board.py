"""The verb ``board``: checks sent rows, and writes the board as a page."""

import argparse
from pathlib import Path

from sida.cli.main import Verb
from sida.errors import UserError
from sida.eval.commands._options import output
from sida.plugins.exchange.board import SENT, read_sent, sent_rows
from sida.plugins.exchange.board_page import write_board


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    page = output("OUT", ".html")
    parser.add_argument(
        "out", nargs="?", type=page, metavar="PAGE", help="page to write (.html); without it, rows are only checked"
    )
    parser.add_argument("--sent", metavar="FOLDER", help="rows that were sent (default: results/board of the checkout)")


def _board(args: argparse.Namespace) -> int:
    """Checks the rows, and writes the page."""
    folder = SENT if args.sent is None else Path(args.sent)
    if args.sent is not None and not folder.is_dir():
        raise UserError(folder, "no such folder", "name the folder with a folder for each row")
    sent = read_sent(folder)
    print(f"{folder}: {len(sent)} row{'s' * (len(sent) != 1)}, all of them checked")
    for row in sent_rows(sent):
        print(f"  {row.generator}: {row.metric} {row.text}, {row.certainty} ({row.origin})")
    if args.out:
        print(f"{args.out}: {write_board(args.out, folder)} numbers")
    return 0


BOARD = Verb(
    """examples:
  sida board                                (checks results/board, as CI does)
  sida board board.html                     (one page, sorted and filtered in the browser)
  sida board --sent mine/                   (checks a folder before it is sent; see docs/board.md)
""",
    _arguments,
    _board,
)
