"""``sida assets`` with ``--protocol``: extends :mod:`sida.cli.commands.assets` by the downloads of a protocol."""

from __future__ import annotations

import argparse

from sida.cli.commands import assets

HELP = assets.HELP
_EXAMPLE = "  sida assets fetch --protocol cifar10       (all that a score under it needs)\n"
EXAMPLES = assets.EXAMPLES.replace("  sida assets verify ", f"{_EXAMPLE}  sida assets verify ")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    assets.arguments(parser)
    parser.add_argument(
        "--protocol", action="append", default=[], metavar="NAME", help="all downloads that a score under it needs"
    )


def run(args: argparse.Namespace) -> int:
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
    return assets.run(args)
