"""``sida-eval show``: prints the main table of a preset and the paths of its results, also of stored results."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.tables import Table

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
    """Prints the overview; the table of stored results is made first, in a temporary folder."""
    from eval.report.overview import overview
    from eval.results.stored import STORED
    from eval.results.summary import measurements_file
    from eval.tables import write_table
    from sida.cli import terminal

    folder = Path(args.preset_dir or args.results)
    if not (folder / STORED).is_file():
        print(overview(folder, args.table, terminal.colour(), terminal.width()))
        return 0
    with tempfile.TemporaryDirectory() as name:
        work, numbers = Path(name), measurements_file(folder)
        table = stored_table(folder, args.table)
        write_table(table, work / "tables" / f"{table.name}.tex")
        (work / numbers.name).symlink_to(numbers.resolve())
        if (folder / "claims.json").is_file():
            (work / "claims.json").symlink_to((folder / "claims.json").resolve())
        text = overview(work, args.table, terminal.colour(), terminal.width())
    print(text.rpartition("\n\n")[0])
    print(f"\nnumbers   {folder}")
    return 0


def stored_table(stored: Path, name: str | None = None) -> Table:
    """A table of stored results; by default the first one of their preset."""
    from eval.results.stored import read_stored
    from eval.tables import make_table
    from sida.config.resources import ROOT
    from workflow.preset import Preset
    from workflow.preset.files import preset_files

    preset = Preset.load(*preset_files(read_stored(stored)["preset"], ROOT))
    name = name or preset.settings.tables[0]
    spec = preset.specs.table(name)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(spec))
        file.flush()
        layout = preset.layout("tables", name)
        return make_table(layout, stored, file.name, mode="measured", spec=spec, results=stored)
