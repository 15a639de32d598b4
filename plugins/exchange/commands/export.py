"""The verb ``export``: a generator for the Hugging Face Hub, or numbers as records of Every Eval Ever."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sida.cli.main import Verb, existing
from sida.config.lookup import typed_object
from sida.errors import UserError
from sida.eval.commands._options import pairs
from sida.eval.results.exchange import read_numbers
from sida.eval.results.measurements import Measurements, load_measurements, measured_in, measurements_file
from sida.eval.results.published import PUBLISHED_DAY, load_published
from sida.files.atomic import atomic_folder, sha256_file, write_json
from sida.files.ordinary import file_below
from sida.plugins.exchange.hub_results import read_benchmarks
from sida.plugins.exchange.records import measured_records, printed_records, record_path
from sida.workflow.commands.archive import measured_folder
from sida.workflow.preset import load_preset
from sida.workflow.preset.files import find_preset

if TYPE_CHECKING:
    from sida.eval.results.measurements import Measurements
    from sida.eval.results.sheet import SheetRow


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
    if os.path.isfile(source) and Path(source).suffix in (".json", ".jsonl"):
        return read_numbers(source), {}
    if measurements_file(source).is_file():
        return load_measurements(source), {}
    if (network := file_below(source, "network.safetensors")).is_file():
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
    from sida.eval.measuring.source import names_function, program_format
    from sida.plugins.exchange.hub_folder import write_generator_folder, write_hub_folder

    benchmarks = read_benchmarks(pairs(args.benchmark, "--benchmark"))
    own = names_function(args.run)
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
