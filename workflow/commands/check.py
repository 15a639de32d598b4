"""``sida check``: measures one printed number again and compares it with the stored one."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sida.cli.main import Verb
from sida.config.lookup import CHECKOUT
from sida.errors import UserError, say, suggestion
from sida.eval.commands._options import parse_trials
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.extended import read_extended
from sida.eval.results.measurements import Estimate, measurements_file
from sida.eval.results.stored import STORED, read_stored, stored_rows, unchanged_rows
from sida.files.atomic import sha256_file
from sida.files.ordinary import file_below
from sida.machine import environment
from sida.workflow.commands.run import snakemake_command
from sida.workflow.planning.costs import Costs, span
from sida.workflow.preset import load_preset
from sida.workflow.preset.extension import stored_results
from sida.workflow.preset.files import find_preset, listed_name
from sida.workflow.preset.jobs import measurement
from sida.workflow.preset.specs import row_digest

if TYPE_CHECKING:
    from sida.workflow.preset import Preset

#: Largest difference of a trial between two kinds of processor, in standard deviations over trials.
OF_PROCESSORS = 0.1
#: Key in the header of a network stored as float16: digest of the file that was measured.
ORIGINAL = "float16_of"


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("stored", metavar="STUDY", help="name or folder of a study with stored results, or that folder")
    parser.add_argument("row", metavar="ROW", help="row of its sheet")
    parser.add_argument("--trials", default="all", metavar="RANGE", help="trials, such as 0 or 0-4 (default: all)")


def _run(args: argparse.Namespace) -> int:
    """Measures, compares and prints."""
    folder = _stored_folder(args.stored)
    facts = read_stored(folder)
    preset = load_preset(_preset_file(folder, facts["preset"]))
    spec, lines = stored_spec(folder, preset, facts["rows"], args.row)
    stored_trials = sorted({int(row["trial"]) for row in lines})
    trials = (
        stored_trials if args.trials == "all" else parse_trials(args.trials, load_protocol(spec["protocol"]).trials)
    )
    if unknown := sorted({*trials} - {*stored_trials}):
        fault = f"trial {unknown[0]} of row '{args.row}' is not stored"
        raise UserError("--trials", fault, f"stored are {', '.join(map(str, stored_trials))}")
    _make_archives(preset, args.row)
    _say_duration(preset, args.row, spec, len(trials))
    started = time.monotonic()
    comparisons, left_out = compared_again(spec, preset, lines, trials)
    seconds = time.monotonic() - started
    if not comparisons:
        raise UserError(
            f"row '{args.row}'", f"nothing to compare: {', '.join(left_out)}", "does its protocol still measure them?"
        )
    images = f"{len(trials)} × {load_protocol(spec['protocol']).num_samples:,} images"
    print(f"{folder}: row {args.row} of {preset.source}, {images}, measured again in {seconds:.1f} s")
    device = environment(spec["device"])["device"]
    elsewhere = device != lines[0]["device"]
    trained_on = f", trained on {on}" if (on := lines[0].get("trained_on")) else ""
    print(f"stored on {lines[0]['device']}, code {lines[0]['code_version']}{trained_on}; here on {device}")
    print("\n".join(_lines(comparisons, elsewhere)))
    if left_out:
        print(f"not compared: {', '.join(left_out)}")
    return 0 if all(one.as_printed or (elsewhere and one.is_near) for one in comparisons) else 1


def _make_archives(preset: Preset, row: str) -> None:
    """Makes the archives of data sets that the measurement reads and that are missing here, as the workflow does.

    Raises:
        UserError: They could not be made.
    """
    files = dict.fromkeys(measurement(preset, row).needs["files"])
    if missing := [path for path in files if path in preset.archives.made and not os.path.exists(path)]:
        say(f"making {', '.join(missing)} first")
        command = snakemake_command([Path(preset.source)], ["--cores", "1", "--", *missing])
        if subprocess.run(command, env={**os.environ, "PYTHONSAFEPATH": "1"}, stdout=sys.stderr).returncode:
            raise UserError(missing[0], "could not be made", "the lines above say why")


def _say_duration(preset: Preset, row: str, spec: Mapping[str, Any], trials: int) -> None:
    """Says how long the measurement takes, by counted operations."""
    costs, protocol = Costs(preset, None, 1), load_protocol(spec["protocol"])
    hours = costs.measurement(row).gpu_hours * trials / preset.trials
    images = f"{trials} × {protocol.num_samples:,} images"
    say(
        f"measuring {images}: about {span(hours)} on {costs.gpu_name} ({costs.gpu.source} rate), more beside other work"
    )


class Comparison(NamedTuple):
    """Comparison of a metric's trials with the stored ones.

    Attributes:
        metric: Key of the metric.
        printed, here: The stored and the new number as text (mean ± sample standard deviation).
        same: Whether all digits of all trials agree.
        difference: Largest difference of a trial.
        share: That difference by the standard deviation over the stored trials; None if unknown.
    """

    metric: str
    printed: str
    here: str
    same: bool
    difference: float
    share: float | None

    @property
    def as_printed(self) -> bool:
        """Whether the printed number is the same."""
        return self.same or self.printed == self.here

    @property
    def is_near(self) -> bool:
        """Whether no trial differs by more than another kind of processor moves it."""
        return self.same or (self.share is not None and self.share <= OF_PROCESSORS)


def _compare(
    lines: list[dict[str, str]],
    records: list[dict[str, Any]],
    trials: list[int],
    formats: Mapping[str, tuple[int, float]],
) -> tuple[list[Comparison], list[str]]:
    """Comparison of each metric with values on both sides, and metrics without a value in a trial."""
    comparisons, left_out = [], []
    for metric in dict.fromkeys(row["metric"] for row in lines):
        before = {int(row["trial"]): float(row["value"]) for row in lines if row["metric"] == metric}
        values = {record["trial"]: record["metrics"].get(metric) for record in records}
        after = {trial: value for trial, value in values.items() if value is not None and trial in before}
        if after:
            comparisons.append(trial_agreement(metric, before, after, *formats.get(metric, (4, 1))))
        if len(after) < len(trials):
            left_out.append(f"{metric} (has values stored and here in {len(after)} of {len(trials)} trials)")
    return comparisons, left_out


def _stored_folder(study: str) -> Path:
    """The folder of stored results of a study, by its name, its folder, or itself.

    Raises:
        UserError: There is none.
    """
    folders = [Path(study), Path(study) / "stored"]
    stored_folder = next((folder for folder in folders if (folder / STORED).is_file()), None)
    stored_folder = stored_folder or stored_results([find_preset(study)])
    if not (stored_folder / STORED).is_file():
        remedy = "name a study that has, or their folder"
        if not CHECKOUT:
            remedy = "clone the repository, since an installed package has none, and name the study's folder there"
        raise UserError(study, f"has no stored results ({stored_folder / STORED})", remedy)
    return stored_folder


def _preset_file(folder: Path, preset: str) -> Path:
    """Preset of stored results: the file beside their folder, as in a copied study, else the path or name on record."""
    beside = (above / Path(preset).name for above in list(folder.absolute().parents)[:2])
    return next((path for path in beside if path.is_file()), None) or find_preset(preset)


def trial_agreement(
    metric: str, stored: dict[int, float], here: dict[int, float], decimals: int = 4, scale: float = 1
) -> Comparison:
    """Compares a metric's trials with the stored ones.

    Args:
        metric: Key of the metric.
        stored: Stored value of each trial.
        here: Value of each trial that was measured here.
        decimals: Printed decimals.
        scale: Factor of printed values, such as 100 for per cent.
    """
    before, after = (Estimate.of([side[trial] for trial in here]) for side in (stored, here))
    scatter = Estimate.of([*stored.values()]).std
    texts = [
        f"{one.mean * scale:.{decimals}f}" + (f" ± {one.std * scale:.{decimals}f}" if one.std is not None else "")
        for one in (before, after)
    ]
    largest = max(abs(stored[trial] - value) for trial, value in here.items())
    return Comparison(metric, texts[0], texts[1], largest == 0, largest, largest / scatter if scatter else None)


def _lines(comparisons: list[Comparison], elsewhere: bool) -> list[str]:
    """The table, and counts of agreement; ``elsewhere``: stored numbers are of another kind of processor."""
    width = max([14, *(len(one.metric) for one in comparisons)]) + 2
    lines = [f"{'metric':<{width}}{'printed':<20}{'measured here':<20}agreement"]
    for one in comparisons:
        share = "" if one.share is None else f", {one.share:.1g} standard deviations over trials"
        words = "to the last digit" if one.same else f"a trial differs by up to {one.difference:.2g}{share}"
        lines.append(f"{one.metric:<{width}}{one.printed:<20}{one.here:<20}{words}")
    num_same, num_printed = sum(one.same for one in comparisons), sum(one.as_printed for one in comparisons)
    counts = f"{num_same} of {len(comparisons)} numbers agree to the last digit, {num_printed} as printed"
    if elsewhere:
        num_near = sum(one.is_near for one in comparisons)
        counts += f"; {num_near} within {OF_PROCESSORS:g} standard deviations over trials, as far as processors differ"
    return [*lines, counts]


def stored_spec(
    folder: Path, preset: Preset, digests: Mapping[str, str], row: str
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Spec of the row's measurement with its stored network, and the stored lines of its measurements.

    Args:
        folder: Stored results.
        preset: Their preset.
        digests: Digest of each row's settings when it was stored.
        row: The row.

    Raises:
        UserError: The row or its network is not stored, or has other settings than the preset.
    """
    rows = stored_rows(folder)
    names = dict.fromkeys(line["run"] for line in rows)
    if row in preset.runs and row not in names:
        raise UserError(
            folder,
            f"row '{row}' is not stored",
            f"`sida run {listed_name(preset.source)} {row}` trains and measures it",
        )
    if row not in preset.runs:
        raise UserError(folder, f"no row '{row}'{suggestion(row, names)}", f"the rows are in {preset.sheet}")
    if digests.get(row) and row not in unchanged_rows(folder, {row: row_digest(preset, row)}):
        raise UserError(folder, f"row '{row}' was stored with other settings than {preset.source} has now", "run it")
    spec = dict(measurement(preset, row).spec)
    lines = [line for line in rows if line["run"] == row]
    for key in ("network", "guide"):
        path = spec[key]
        if path is None or not path.startswith(f"{preset.results}/"):
            continue
        spec[key] = str(file_below(folder, path.removeprefix(f"{preset.results}/")))
        if not Path(spec[key]).is_file():
            remedy = f"`sida run {listed_name(preset.source)} {row}` trains and measures it again"
            raise UserError(spec[key], f"the network of row '{row}' is not stored", remedy)
    images = load_protocol(spec["protocol"]).num_samples
    if other := next((line for line in lines if line["n"] != str(images)), None):
        fault = f"{other['metric']} of row '{row}' is of {other['n']} images, and {preset.source} measures {images}"
        raise UserError(measurements_file(folder), fault, "take both again")
    if spec["network"] and not _is_measured(spec["network"], lines[0]["network_sha256"]):
        raise UserError(spec["network"], f"is not the network that row '{row}' was measured of", "take both again")
    return spec, lines


def _is_measured(network: str, digest: str) -> bool:
    """Whether a file is the network with a digest, or was stored from it as float16."""
    from sida.networks.file import read_metadata

    return sha256_file(network) == digest or read_metadata(network).get(ORIGINAL) == digest


def compared_again(
    spec: dict[str, Any], preset: Preset, lines: list[dict[str, str]], trials: list[int]
) -> tuple[list[Comparison], list[str]]:
    """Measures trials again; returns the comparison of each metric, and metrics without one.

    Args:
        spec: Spec of the measurement.
        preset: Its preset, whose tables say how numbers are printed.
        lines: Stored lines of the row.
        trials: The trials.
    """
    from sida.eval.measuring.measure import measure

    with tempfile.TemporaryDirectory() as out:
        records = measure(spec, out, trials)
    return _compare(lines, records, trials, _formats(preset))


def _formats(preset: Preset) -> dict[str, tuple[int, float]]:
    """Printed decimals and factor of each metric, by the study's first table that has it."""
    formats: dict[str, tuple[int, float]] = {}
    for name in preset.settings.tables:
        for column in read_extended(preset.layout("tables", name)).get("columns", []):
            if "metric" in column and "decimals" in column:
                formats.setdefault(column["metric"], (column["decimals"], column.get("scale", 1)))
    return formats


CHECK = Verb(
    """examples:
  sida check studies/demo sida-a1.0
  sida check demo sida-a1.0 --trials 0              (one trial of five)

The stored network draws the images of the stored trials again, with their seeds. On the same kind of processor all
digits agree. Another one rounds otherwise: the command says by how much, and allows 0.1 standard deviations over
trials. Exit status 1 if a printed number differs by more.
""",
    _arguments,
    _run,
)
