"""Verbs on finished results: ``sida show``, ``sida verify`` and ``sida manifest``."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from sida.cli.main import Verb, existing
from sida.config.settings import load_spec
from sida.errors import UserError, suggestion
from sida.eval.results.measurements import measurements_file
from sida.eval.tables.build import UnmeasuredError, make_table
from sida.eval.tables.render import terminal_text, to_terminal
from sida.files.atomic import write_hashed_json
from sida.files.ordinary import file_below
from sida.workflow.archive.manifest import manifest_of
from sida.workflow.cli import terminal_colour, terminal_width
from sida.workflow.preset import load_preset
from sida.workflow.preset.files import find_preset, listed_name
from sida.workflow.preset.jobs import product

if TYPE_CHECKING:
    from sida.eval.tables.model import Table
    from sida.workflow.preset import Preset


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("preset", metavar="PRESET", help="name, file or folder of a preset")
    parser.add_argument("--table", metavar="NAME", help="table to print (default: the preset's first)")


def _show(args: argparse.Namespace) -> int:
    """Prints a table of a preset's results, else of its stored results, and where the files are."""
    show_results(load_preset(find_preset(args.preset)), args.table)
    return 0


def show_results(preset: Preset, table_name: str | None = None) -> None:
    """Prints a table of a preset, by default its first with measurements, and where the files are.

    Raises:
        UserError: The preset has no such table.
    """
    tables = list(preset.layouts["tables"])
    if not tables:
        raise UserError("show", f"{preset.name} has no tables", "add 'tables' to the preset")
    if table_name and table_name not in tables:
        raise UserError(f"--table {table_name}", f"{preset.name} has no such table{suggestion(table_name, tables)}")
    names = [table_name] if table_name else tables
    measured = [(folder, each) for folder in _folders(preset) for each in names if _numbers(folder, each)]
    results, name = measured[0] if measured else (Path(preset.results), names[0])
    try:
        table = table_of(preset, name, results)
    except UnmeasuredError as error:
        raise UserError(preset.name, "has no results", f"run it: sida run {listed_name(preset.source)}") from error
    colour, width = terminal_colour(), terminal_width()
    text = to_terminal(table, colour)
    print(f"preset    {preset.name}\n\n{text}")
    for note in [
        *table.notes,
        *(["* best"] if not colour and "*" in text else []),
    ]:
        print(textwrap.fill(terminal_text(note), width, break_long_words=False, break_on_hyphens=False))
    print(f"\nnumbers   {_numbers(results, name) or 'none measured: published ones alone'}")
    for label, file in (("page", "index.html"), ("figures", "figures"), ("tables", "tables"), ("claims", "claims.md")):
        if (results / file).exists():
            print(f"{label:<9} {results / file}")


def measured_folder(preset: Preset) -> Path | None:
    """Folder with a preset's measurements: its results, else its stored results; None without any."""
    return next((folder for folder in _folders(preset) if measurements_file(folder).is_file()), None)


def _folders(preset: Preset) -> list[Path]:
    """Results folder and stored results of a preset, which may not exist."""
    return [Path(preset.results), *(folder / "stored" for folder in preset.folders)]


def _numbers(results: Path, name: str) -> Path | None:
    """Measurements of a table: those of its last build, else all; None without any."""
    collected, whole = file_below(results, f"collected/tables/{name}.csv"), measurements_file(results)
    return next((path for path in (collected, whole) if path.is_file()), None)


def table_of(preset: Preset, name: str, results: Path) -> Table:
    """A table of a preset from a results folder, which may hold no measurements (published numbers alone)."""
    return make_table(
        preset.layout("tables", name),
        _numbers(results, name),
        preset.sheet,
        spec=product(preset, "tables", name).spec,
        results=results,
    )


SHOW = Verb(
    """examples:
  sida show demo                         (results/demo, else the study's stored results)
  sida show released --table table4
""",
    _show_arguments,
    _show,
)


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("folder", type=existing(), metavar="DIR", help="results folder of a preset")


def _verify(args: argparse.Namespace) -> int:
    """Prints faults, remarks and the summary."""
    from sida.workflow.archive.verify import verify

    report = verify(args.folder)
    if not report.counts and not report.faults:
        raise UserError(args.folder, "nothing in it can be checked", "name the results of a preset: results/demo")
    for line in report.faults:
        print(f"fault   {line}")
    for line in report.remarks:
        print(f"remark  {line}")
    print(report.summary)
    return 1 if report.faults else 0


VERIFY = Verb(
    """examples:
  sida verify results/demo
  sida verify ~/Downloads/their-results

Nothing in the folder is executed or changed, and no link is followed. One line per fault; exit status 1 if there is
any. Hashes find damage and mistakes; they do not prove who made a file. All files of tables, the data of curves and
the verdicts of this package's studies are made again and compared byte for byte, by this version of the code; pictures,
pages and what needs code from outside are counted, and compared with the manifest alone.
""",
    _verify_arguments,
    _verify,
)


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``sida manifest``."""
    parser.add_argument("folder", type=existing(), help="results folder of a preset")
    parser.add_argument("--preset", help="settings of the preset as JSON or a file; their digest is recorded")
    parser.add_argument("--command", help="command that made the results; recorded")
    parser.add_argument("--out", required=True, help="manifest to write (JSON)")


def _manifest(args: argparse.Namespace) -> None:
    """Writes the manifest."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(folder, "no such results folder", "run the preset first")
    preset = load_spec(args.preset, "--preset") if args.preset else None
    write_hashed_json(args.out, manifest_of(folder, preset, args.command))


MANIFEST = Verb(
    """examples:
  sida manifest results/demo --out results/demo/manifest.json
""",
    _manifest_arguments,
    _manifest,
)
