"""``sida-eval show``: prints the main table of a preset and the paths of its results, also of stored results."""

from __future__ import annotations

import argparse

HELP = "Print the main table of a finished preset with the paths of its report, figures and LaTeX."
EXAMPLES = """examples:
  sida-eval show results/demo
  sida-eval show results/released --table table4
  sida-eval show studies/demo/stored
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", nargs="?", default="results/demo", metavar="DIR", help="results of a preset")
    parser.add_argument("--preset-dir", dest="preset_dir", metavar="DIR", help="the same as the positional DIR")
    parser.add_argument("--table", metavar="NAME", help="table to print (default main, else the first one)")


def run(args: argparse.Namespace) -> int:
    """Prints the overview; tables of stored results are made first, in a temporary folder."""
    from pathlib import Path

    from eval.report.overview import overview
    from eval.results.stored import STORED
    from sida.cli import terminal
    from sida.config.resources import ROOT
    from workflow.docs.study import opened

    folder = Path(args.preset_dir or args.results)
    if not (folder / STORED).is_file():
        print(overview(folder, args.table, terminal.colour(), terminal.width()))
        return 0
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
