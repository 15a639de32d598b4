"""``sida-eval table`` with option ``--config``: extends :mod:`eval.commands.table` by the settings of a preset."""

from __future__ import annotations

import argparse

from eval.commands import table
from workflow.commands.plan import preset_argument

HELP, EXAMPLES = table.HELP, table.EXAMPLES


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    table.arguments(parser)
    preset_argument(parser, "preset whose settings table 8 prints; also JSON text")


def run(args: argparse.Namespace) -> int:
    """Builds and writes the table."""
    if args.preset:
        import json

        from sida.config.settings import load_spec
        from workflow.preset import Preset
        from workflow.preset.files import find_preset

        is_json = args.preset.lstrip().startswith("{")
        preset = (
            Preset(load_spec(args.preset, "--preset"), "--preset") if is_json else Preset.load(find_preset(args.preset))
        )
        args.spec = json.dumps(preset.specs.table(args.table or args.layout))
    return table.run(args)
