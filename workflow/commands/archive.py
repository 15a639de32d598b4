"""Verbs on finished results: ``sida show``, ``sida verify``, ``sida export`` and ``sida manifest``."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eval.commands._options import pairs
from sida.cli.main import Verb, existing
from sida.config.lookup import typed_object
from sida.config.settings import load_spec, names_object
from sida.errors import UserError, suggestion
from sida.files.atomic import atomic_folder, sha256_file, write_hashed_json, write_json
from workflow.cli import terminal_colour, terminal_width

if TYPE_CHECKING:
    from eval.results.sheet import SheetRow
    from eval.results.summary import Measurements
    from eval.tables.model import Table
    from workflow.preset import Preset


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("preset", metavar="PRESET", help="name, file or folder of a preset")
    parser.add_argument("--table", metavar="NAME", help="table to print (default: the preset's first)")


def _show(args: argparse.Namespace) -> int:
    """Prints a table of a preset's results, else of its stored results, and where the files are."""
    from workflow.preset import load_preset
    from workflow.preset.files import find_preset

    show_results(load_preset(find_preset(args.preset)), args.table)
    return 0


def show_results(preset: Preset, table_name: str | None = None) -> None:
    """Prints a table of a preset, its first by default, and where the files are.

    Raises:
        UserError: The preset has no such table.
    """
    from eval.results.summary import measurements_file
    from eval.tables.notes import summary_sentence
    from eval.tables.render import spelled, terminal_text, to_terminal

    results = measured_folder(preset) or Path(preset.results)
    tables = list(preset.layouts["tables"])
    name = table_name or next(iter(tables), "")
    if not tables:
        raise UserError("show", f"{preset.name} has no tables", "add 'tables' to the preset")
    if name not in tables:
        raise UserError(f"--table {name}", f"{preset.name} has no such table{suggestion(name, tables)}")
    path, table = measurements_file(results), table_of(preset, name, results)
    colour, width = terminal_colour(), terminal_width()
    text = to_terminal(table, colour)
    print(f"preset    {preset.name}\n\n{text}")
    for note in [
        *table.notes,
        *(["* not beaten by the best"] if not colour and "*" in text else []),
        *([spelled(sentence)] if (sentence := summary_sentence(table.records)) else []),
    ]:
        print(textwrap.fill(terminal_text(note), width, break_long_words=False, break_on_hyphens=False))
    print(f"\nnumbers   {path if path.is_file() else 'none measured: published ones alone'}")
    for label, file in (("page", "index.html"), ("figures", "figures"), ("tables", "tables"), ("claims", "claims.md")):
        if (results / file).exists():
            print(f"{label:<9} {results / file}")


def measured_folder(preset: Preset) -> Path | None:
    """Folder with a preset's measurements: its results, else its stored results; None without any."""
    from eval.results.summary import measurements_file

    folders = [Path(preset.results), *(folder / "stored" for folder in preset.folders)]
    return next((folder for folder in folders if measurements_file(folder).is_file()), None)


def table_of(preset: Preset, name: str, results: Path) -> Table:
    """A table of a preset from a results folder, which may hold no measurements (published numbers alone)."""
    from eval.results.summary import measurements_file
    from eval.tables.build import make_table
    from workflow.preset.products import product

    path = measurements_file(results)
    return make_table(
        preset.layout("tables", name),
        path if path.is_file() else None,
        preset.sheet,
        spec=product(preset, "tables", name).spec,
        results=results,
    )


SHOW = Verb(
    "Print a preset's first table, and where its report, figures and LaTeX are.",
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
    parser.add_argument("--quiet", action="store_true", help="leave out remarks on files that are not compared")


def _verify(args: argparse.Namespace) -> int:
    """Prints faults, remarks and the summary."""
    from workflow.archive.verify import verify

    report = verify(args.folder)
    if not report.counts and not report.faults:
        raise UserError(args.folder, "nothing in it can be checked", "name the results of a preset: results/demo")
    for line in report.faults:
        print(f"fault   {line}")
    for line in [] if args.quiet else report.remarks:
        print(f"remark  {line}")
    print(report.summary)
    return 1 if report.faults else 0


VERIFY = Verb(
    "Check a results folder: hashes, parents, measurements by trials; tables, figures and verdicts made again.",
    """examples:
  sida verify results/demo
  sida verify ~/Downloads/their-results --quiet          (faults and the summary alone)

Nothing in the folder is executed or changed, and no link is followed. One line per fault; exit status 1 if there is
any. Hashes find damage and mistakes; they do not prove who made a file. All files of tables, the data of curves and
the verdicts of this package's studies are made again and compared byte for byte, by this version of the code; pictures,
pages and what needs code from outside are counted, and compared with the manifest alone.
""",
    _verify_arguments,
    _verify,
)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    run = (
        "folder of a training, network file, or a generator of your own (module:function, file of torch.export or "
        "TorchScript); with --to eee a file of sida score, a results folder, a study with results, or `published`"
    )
    parser.add_argument("run", type=typed_object, metavar="RUN", help=run)
    parser.add_argument("--row", type=existing("--row"), metavar="FILE", help="sida score --out of your own generator")
    parser.add_argument("--like", metavar="TABLE", help="show the row with the columns of this table")
    parser.add_argument("--to", required=True, choices=("hf", "eee"), help="form of the folder")
    parser.add_argument("out", metavar="FOLDER", help="folder to make")
    parser.add_argument("--license", default="other", metavar="ID", help="licence as the Hub names it (default: other)")
    benchmark = (
        "with --to hf: leaderboard of a metric, which gets an entry in .eval_results; PROTOCOL/METRIC where several "
        "protocols have the metric"
    )
    form = "METRIC=OWNER/DATASET:TASK"
    parser.add_argument("--benchmark", action="append", default=[], metavar=form, help=benchmark)
    parser.add_argument("--origin", metavar="NAME", help="with --to eee: person or group who measured")
    parser.add_argument("--developer", default="unknown", metavar="NAME", help="with --to eee: who made the generators")


def _export(args: argparse.Namespace) -> int:
    """Writes the folder."""
    if os.path.lexists(args.out):
        raise UserError(args.out, "exists already", "name another folder, or remove it")
    if args.benchmark and args.to != "hf":
        raise UserError("--benchmark", "is for --to hf", "leave it out")
    write = _write_records if args.to == "eee" else _write_hub_folder
    write(args, Path(args.out))
    print("\n".join(sorted(str(path) for path in Path(args.out).rglob("*") if path.is_file())))
    return 0


def _write_records(args: argparse.Namespace, out: Path) -> None:
    """Writes a record of Every Eval Ever for each generator of measurements, or of the printed numbers."""
    from eval.results.published import PUBLISHED_DAY, load_published
    from sida.plugins.exchange.records import measured_records, printed_records, record_path

    if args.run == "published":
        records = printed_records(load_published().values(), PUBLISHED_DAY)
    elif args.origin is None:
        raise UserError("--origin", "is missing", "name who measured: --origin NAME")
    else:
        measurements, sheet = _measurements(args.run)
        records = measured_records(measurements, args.origin, args.developer, sheet)
    with atomic_folder(out) as folder:
        for record in records:
            path = folder / record_path(record)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)


def _measurements(source: str) -> tuple[Measurements, Mapping[str, SheetRow]]:
    """Measurements of a file of ``sida score``, a training, a results folder, or a study, whose sheet comes along."""
    from eval.results.exchange import read_numbers
    from eval.results.summary import Measurements, load_measurements, measured_in, measurements_file
    from workflow.preset import load_preset
    from workflow.preset.files import find_preset

    if os.path.isfile(source) and Path(source).suffix in (".json", ".jsonl"):
        return read_numbers(source), {}
    if measurements_file(source).is_file():
        return load_measurements(source), {}
    if (network := Path(source, "network.safetensors")).is_file():
        # The results folder of results/demo/students/x; a network is told by its hash, as on its card.
        measurements, digest = measured_in(network.resolve().parents[2]), sha256_file(network)
        lines = [line for line in measurements.rows if line.network_sha256 == digest]
        if not lines:
            raise UserError(source, "was not measured", "measure it, or name its score: sida score --out row.json")
        return Measurements(lines, measurements.source), {}
    preset = load_preset(find_preset(source))
    if (results := measured_folder(preset)) is None:
        raise UserError(source, "has no results", f"run it: sida run {source}")
    return load_measurements(results), preset.runs


def _write_hub_folder(args: argparse.Namespace, out: Path) -> None:
    """Writes the folder for the Hugging Face Hub."""
    from eval.measuring.functions import program_format
    from sida.plugins.exchange.hub_folder import write_generator_folder, write_hub_folder
    from sida.plugins.exchange.hub_results import read_benchmarks

    benchmarks = read_benchmarks(pairs(args.benchmark, "--benchmark"))
    own = not os.path.exists(args.run) and names_object(args.run)
    if not own:
        existing()(args.run)
    own = own or (os.path.isfile(args.run) and bool(program_format(args.run)))
    if own != (args.row is not None):
        fault = "is for a generator of your own" if args.row else "needs its measurements"
        raise UserError(args.run if own else "--row", fault, "score it with --out row.json, then add --row row.json")
    if own:
        write_generator_folder(args.run, out, args.row, args.like, args.license, benchmarks)
    else:
        write_hub_folder(Path(args.run), out, args.license, benchmarks)


EXPORT = Verb(
    "Write a generator as a folder for the Hugging Face Hub, or its numbers as records of Every Eval Ever.",
    """examples:
  sida export results/demo/students/sida-a1.0 --to hf sida-digits/
  sida export network.safetensors --to hf folder/ --license cc-by-nc-sa-4.0
  sida export mine:sample --to hf folder/ --row row.json --like table1        (your function, its row and card)
  SIDA_ALLOW_CODE=./g.pt2 sida export g.pt2 --to hf folder/ --row row.json    (torch.export, a program)
  sida export network.safetensors --to hf folder/ --benchmark fid=OWNER/DATASET:TASK     (.eval_results/sida.yaml)
  sida export row.json --to eee records/ --origin "NAME, ADDRESS"             (numbers in an exchange schema)
  sida export fashion --to eee records/ --origin NAME          (all rows of a study, with what its sheet says of them)
  sida export published --to eee records/                                     (the printed numbers, with sources)
  hf upload OWNER/NAME sida-digits/          (your own command: nothing is uploaded here)

The card has the measurements of this very file (by its hash) from measurements.csv of the run's preset.
""",
    _export_arguments,
    _export,
)


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``sida manifest``."""
    parser.add_argument("folder", type=existing(), help="results folder of a preset")
    parser.add_argument("--preset", help="settings of the preset as JSON or a file; their digest is recorded")
    parser.add_argument("--command", help="command that made the results; recorded")
    parser.add_argument("--out", required=True, help="manifest to write (JSON)")


def _manifest(args: argparse.Namespace) -> None:
    """Writes the manifest."""
    from workflow.archive.manifest import manifest_of

    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(folder, "no such results folder", "run the preset first")
    preset = load_spec(args.preset, "--preset") if args.preset else None
    write_hashed_json(args.out, manifest_of(folder, preset, args.command))


MANIFEST = Verb(
    "Record every artefact of a results folder with its sha256, versions and machine.",
    """examples:
  sida manifest results/demo --out results/demo/manifest.json
""",
    _manifest_arguments,
    _manifest,
)
