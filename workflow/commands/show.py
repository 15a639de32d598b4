"""``sida-eval show`` also of stored results: extends :mod:`eval.commands.show` by tables made from them."""

from __future__ import annotations

import argparse

from eval.commands import show

HELP = show.HELP
EXAMPLES = show.EXAMPLES + "  sida-eval show studies/demo/stored\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    show.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the overview; tables of stored results are made first, in a temporary folder."""
    from pathlib import Path

    from eval.results.stored import STORED

    folder = Path(args.preset_dir or args.results)
    if not (folder / STORED).is_file():
        return show.run(args)
    from eval.report.overview import overview
    from sida.cli import terminal
    from sida.config.resources import ROOT
    from workflow.docs.study import opened

    with opened(ROOT, [folder]) as studies:
        (study,) = studies.values()
        for name in [args.table] if args.table else study.preset.settings.tables[:1]:
            study.make_table(name)
        if study.preset.settings.claims:
            assert study.verdicts_file.is_file()
        text = overview(study.work, args.table, terminal.colour(), terminal.width())
    print(text.rpartition("\n\n")[0])
    print(f"\nnumbers   {folder}")
    return 0
