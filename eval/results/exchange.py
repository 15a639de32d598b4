"""Numbers as groups exchange them: a line of JSON for each metric of a generator, with digests and its origin."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sida.config.registries import entries
from sida.config.settings import Count, Finite, Name, Pattern, Settings, from_mapping
from sida.errors import SettingError, UserError
from sida.eval.results.measurements import Measurement, Measurements, checked_lines
from sida.eval.results.published import Published
from sida.eval.results.trial_files import RESCORE, long_rows, score_of
from sida.files.atomic import read_hashed_json
from sida.files.content import START, kind_of_file, placeholder_in
from sida.files.ordinary import open_ordinary
from sida.files.text_files import MOST_LINES, check_amount, parse_json, read_text

_Digest = Annotated[str, Pattern(r"([0-9a-f]{64})?", "64 lower-case hexadecimal digits, or empty where unknown")]


@dataclass(frozen=True, kw_only=True)
class ExchangedMetric(Settings):
    """A metric of one generator over its trials.

    Attributes:
        format: Version of this form.
        origin: Person or group who measured, with an address or a citation (`sida score --origin`).
        run: Id of the generator.
        metric: Key of the metric in the protocol.
        values: Value of each trial, in order.
        n: Images of a trial.
        nfe: Network evaluations per image.
        protocol: Name of the protocol.
        settings: Kind of the metric with its settings, as `sida score --json` writes them.
        classes: Distribution of the classes: `uniform`, `data` or a digest of counts.
        resolution: Height and width of the images; empty for any.
        reference_sha256: Digest of the data side.
        extractor_sha256: Digest of the feature network.
        network_sha256: Digest of the generator's network file.
        device: Kind of device.
        code_version: Program and version that measured.
        saw: Networks that the generator was exposed to (docs/score.md), `none` or `unknown`; empty is unknown.
        held_out: Held-out images of the metric that the generator has seen, of some that were looked for, as `3/50`, or
            `unknown`; empty for a metric without held-out images.
        order: Order of the images of files, such as `dealt, seed 0`; empty for the stored order, and for generators.
        date: Day or time of the measurement, ISO 8601.
    """

    format: Literal["sida-metric/2"] = "sida-metric/2"
    origin: str = ""
    run: Name
    metric: Name
    values: tuple[Finite, ...]
    n: Count
    nfe: Count | None = None
    protocol: str
    settings: Annotated[str, Pattern(r"[a-z_][^ ]*( [^ =]+=[^ ]*)*", "the settings that `sida score --json` writes")]
    classes: str = ""
    resolution: str = ""
    reference_sha256: _Digest = ""
    extractor_sha256: _Digest = ""
    network_sha256: _Digest = ""
    device: str = ""
    code_version: str = ""
    saw: str = ""
    held_out: Annotated[str, Pattern(r"(\d+/\d+|unknown)?", "such as 3/50, or unknown")] = ""
    order: str = ""
    date: Annotated[str, Pattern(r"\d{4}-\d{2}-\d{2}.*", "a date such as 2026-11-22")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.values) <= 10_000:
            raise SettingError("values", f"must be 1 to 10,000 numbers, got {len(self.values)}")

    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``measurements.csv``, with their origin."""
        facts = {name: getattr(self, name) for name in ("origin", *_SHARED)} | {"method": "external"}
        return [{**facts, "trial": trial, "value": repr(value)} for trial, value in enumerate(self.values)]


def exchanged(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measurements of one generator as :class:`ExchangedMetric` mappings, a mapping for each metric.

    Args:
        records: Trials, as :func:`sida.eval.results.trial_files.long_rows` takes them.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for row in long_rows(records):
        fields = {name: row[name] for name in _SHARED if row.get(name) is not None}
        # Ids name files; labels may have any characters, and be long.
        fields["run"] = re.sub(r"[^A-Za-z0-9._-]+", "-", row["run"]).strip("-._")[:100] or "images"
        metrics.setdefault(row["metric"], {"format": "sida-metric/2", **fields, "values": []})
        metrics[row["metric"]]["values"].append(float(row["value"]))
    return list(metrics.values())


_SHARED = [
    field.name for field in dataclasses.fields(ExchangedMetric) if field.name not in ("format", "origin", "values")
]


@dataclass(frozen=True)
class Added:
    """Numbers of a file from elsewhere: measurements, or printed numbers.

    Attributes:
        measured: Measurements, of any number of generators.
        printed: Numbers of a record that another tool wrote; it is unknown which numbers they may be compared with.
        family: Group of the row in tables, where a file of ``sida score`` names one.
        against: For a comparison of two sets of images (``sida score --against``): the two sets.
    """

    measured: Measurements
    published: tuple[Published, ...] = ()
    family: str = ""
    against: str = ""


def read_added(path: str | Path) -> Added:
    """Reads the lines of ``sida score --json`` (``.jsonl``), its ``--out``, or a form that a plugin's reader knows.

    A reader is a function of a file's JSON content and its path. It returns measurements and printed numbers, or None
    if the content is of another form.

    Raises:
        UserError: As :func:`read_exchanged` and :func:`sida.eval.results.trial_files.score_of`, a reader refuses it,
            or the file is of another format.
    """
    source = str(path)
    if Path(path).suffix == ".jsonl":
        return Added(Measurements(read_exchanged(path), source))
    _refuse_other(path)
    content = read_hashed_json(path, RESCORE)
    for reader in entries("readers").values():
        if (numbers := reader.load()(content, source)) is not None:
            measured, printed = numbers
            return Added(Measurements(measured, source), tuple(printed))
    scores = score_of(content, source)
    against = f"{content.get('name')} with {content['against']}" if content.get("against") else ""
    return Added(scores, family=str(content["measurements"][0].get("family") or ""), against=against)


def _refuse_other(path: str | Path) -> None:
    """Refuses a table of measurements, and a file that does not begin as JSON, which may be whole.

    Raises:
        UserError: The message names its kind.
    """
    if Path(path).suffix == ".csv":
        remedy = f"sida table TABLE --measurements {path} --runs SHEET.tsv shows its runs"
        raise UserError(path, "is a table of measurements (CSV), not a result of sida score", remedy)
    with open_ordinary(path) as stream:
        start = stream.read(START)
    text = placeholder_in(start)
    kind = kind_of_file(path, start) or (text.kind if text is not None and not text.kind.startswith("JSON") else "")
    if kind:
        raise UserError(path, f"is {kind}, not a result of sida score", "give its --out")


def read_numbers(path: str | Path) -> Measurements:
    """Measurements of a file that :func:`read_added` reads.

    Raises:
        UserError: As there, or the file holds printed numbers alone.
    """
    added = read_added(path)
    if added.published:
        fault = "has no measurements of this suite, by whose trials and digests numbers are comparable"
        raise UserError(path, fault, "show its numbers in a table: sida table TABLE --add FILE")
    return added.measured


def read_exchanged(path: str | Path) -> list[Measurement]:
    """Numbers of other groups, with their origin.

    Args:
        path: File with a JSON object for each line (``workflow/schemas/measurement.schema.json``).

    Raises:
        UserError: Missing file, damaged line, wrong value, no origin, or a metric of a run that occurs twice.
    """
    if not Path(path).is_file():
        raise UserError(path, "no such file of measurements", "give the lines of `sida score --json`")
    text = read_text(path)
    check_amount(text, str(path), "\n", MOST_LINES, "lines")
    lines: list[Measurement] = []
    keys: set[tuple[str, str]] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        metric = from_mapping(ExchangedMetric, parse_json(line, where), where)
        if not metric.origin.strip() or not metric.origin.isprintable():
            remedy = 'name who measured it: sida score --json --origin "NAME, ADDRESS"'
            raise UserError(f"{where}: origin", "is empty or not plain text", remedy)
        if (metric.run, metric.metric) in keys:
            raise UserError(where, f"metric '{metric.metric}' of run '{metric.run}' occurs twice", "remove one")
        keys.add((metric.run, metric.metric))
        lines += checked_lines(metric.rows(), where)
    if not lines:
        raise UserError(path, "holds no measurements", "give the lines of `sida score --json`")
    return lines
