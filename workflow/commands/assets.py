"""``sida assets`` with ``--protocol``: extends :data:`sida.cli.data.ASSETS` by the downloads of a protocol."""

import argparse

from sida.cli import data
from sida.cli.main import Verb

_EXAMPLE = "  sida assets fetch --protocol cifar10       (all that a score under it needs)\n"


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    data.ASSETS.arguments(parser)
    parser.add_argument(
        "--protocol", action="append", default=[], metavar="NAME", help="all downloads that a score under it needs"
    )


def _run(args: argparse.Namespace) -> int:
    """Does the action for the chosen assets and those of the protocols."""
    if args.protocol:
        from eval.measuring.protocol import load_protocol
        from sida.errors import say

        for name in args.protocol:
            needed = load_protocol(name).assets(drawn=True)
            args.ids += [asset for asset in needed if asset not in args.ids]
            if not needed:
                say(f"protocol '{name}': needs no download")
        if not args.ids and args.kind is None:
            return 0
    return data.ASSETS.run(args) or 0


ASSETS = Verb(
    data.ASSETS.help,
    data.ASSETS.examples.replace("  sida assets verify ", f"{_EXAMPLE}  sida assets verify "),
    _arguments,
    _run,
)
