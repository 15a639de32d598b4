"""``sida-eval table`` with option ``--config``: extends :mod:`eval.commands.table` by the settings of a preset."""

from __future__ import annotations

import argparse

from eval.commands import table

HELP, EXAMPLES = table.HELP, table.EXAMPLES


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    table.arguments(parser)
    parser.add_argument("--config", metavar="PRESET", help="preset whose settings table 8 prints: a file or JSON text")


def run(args: argparse.Namespace) -> int:
    """Builds and writes the table."""
    if args.config:
        import json

        from sida.config.mapping import load_spec
        from workflow.preset import Preset

        preset = Preset(load_spec(args.config, "--config"), "--config")
        args.spec = json.dumps(preset.specs.table(args.layout))
    return table.run(args)
