"""``index.html``: all results of a preset on one page without other files or network access.

Writes the index page of a preset from its template.

Content of the index page, read from the files of the other steps; only sums of time are computed.
"""

from __future__ import annotations

import os
import re
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.claims.model import RULES, SIGNS
from eval.claims.write import CHANCE, VERDICT_MARKS, read_verdicts
from eval.report.answers import Answer, answers_of, paper_scale
from eval.report.page import reduced_png
from eval.report.paper import figure_caption, in_order, training_time
from eval.results.summary import (
    Measurement,
    Measurements,
    image_seeds,
    load_measurements,
    measured_days,
    measurements_file,
)
from eval.tables.files import load_table
from eval.tables.model import Table
from eval.tables.render import html_text, page_of, template
from sida.errors import UserError
from sida.files.atomic import write_text

if TYPE_CHECKING:
    from markupsafe import Markup

    from eval.claims.experiments import Experiment


#: Keys of a table's records that the page shows.
_SHOWN = ("row", "model", "run", "measured", "published_id", "published", "published_std")


@dataclass(frozen=True)
class ShownPicture:
    """A figure: stem of its file, caption, and the picture as a ``data:`` address."""

    name: str
    caption: str
    data: str


@dataclass(frozen=True)
class ShownClaim:
    """A verdict with its comparisons, from measurements and (for the paper's claims) from published numbers."""

    id: str
    statement: str
    origin: str
    note: str
    verdict: str
    evidence: Sequence[str]
    published_verdict: str | None
    published_evidence: Sequence[str]
    rules: Sequence[str]


@dataclass(frozen=True)
class Generator:
    """Facts about the measurements of a run."""

    run: str
    label: str
    tables: str
    trials: str
    seeds: str
    network: str
    training: str


@dataclass(frozen=True)
class Quoted:
    """A row of published numbers with their ids in ``results/published``."""

    row: str
    numbers: str
    ids: str


@dataclass(frozen=True)
class PageFiles:
    """Files that a page shows.

    Attributes:
        folder: Results of a preset.
    """

    folder: Path

    @property
    def claims(self) -> Path:
        """File of the verdicts."""
        return self.folder / "claims.json"

    @property
    def measurements(self) -> Path:
        """File of the measurements."""
        return measurements_file(self.folder)

    def files(self, kind: Literal["tables", "figures"], suffix: str) -> list[Path]:
        """Existing files of tables or figures, in the order of the page."""
        return in_order(self.folder / kind, suffix)


def load_tables(sources: PageFiles) -> dict[str, Table]:
    """The tables of a preset by name, the main one first."""
    return {path.stem: load_table(path) for path in sources.files("tables", ".json")}


def load_pictures(sources: PageFiles, own: str | Path | None) -> list[ShownPicture]:
    """The figures of a preset, in 256 colours."""
    pictures = []
    for path in sources.files("figures", ".png"):
        data = b64encode(reduced_png(path)).decode("ascii")
        pictures.append(ShownPicture(path.stem, figure_caption(path, own), f"data:image/png;base64,{data}"))
    return pictures


def placed_pictures(pictures: Sequence[ShownPicture], answers: Sequence[Answer]) -> dict[str, list[ShownPicture]]:
    """Pictures of the answers, by experiment: the first of its figures that no other experiment shows."""
    by_name, found = {picture.name: picture for picture in pictures}, dict[str, list[ShownPicture]]()
    for answer in answers:
        free = [name for name in answer.experiment.figures if name in by_name]
        found[answer.experiment.id] = [by_name.pop(name) for name in free[:1]]
    return found


#: Note on a verdict that many comparisons leave open.
_CHANCE = f"{CHANCE} The verdict needs a comparison that does not survive the correction for many comparisons."


def load_verdicts(path: Path) -> tuple[str, list[ShownClaim]]:
    """Introduction of the verdicts, and the verdicts; empty without decided claims.

    Raises:
        UserError: The file has another form.
    """
    if not path.is_file():
        return "", []
    record = read_verdicts(path)
    words = (record.get("preamble", ""), record.get("comparisons", ""))
    return " ".join(filter(None, words)), [_claim(claim) for claim in record["claims"]]


def _claim(record: dict[str, Any]) -> ShownClaim:
    printed = record.get("by_published")
    # Claims that only a measurement can decide have no published verdict.
    if printed and not any(finding["numbers"] for finding in printed["findings"]):
        printed = None
    origin = [f"source: {record['source']}"] if record["source"] else []
    origin += [f"mirrors {record['counterpart']}"] if record["counterpart"] else []
    return ShownClaim(
        id=record["id"],
        statement=record["statement"],
        origin="; ".join(origin),
        note=" ".join(filter(None, (record["note"], _CHANCE if record.get("chance") else ""))),
        verdict=record["verdict"],
        evidence=record["evidence"],
        published_verdict=printed["verdict"] if printed else None,
        published_evidence=printed["evidence"] if printed else [],
        rules=[finding["rule"] for finding in record["findings"]],
    )


def counts(verdicts: Sequence[str]) -> list[tuple[str, int]]:
    """Number of claims with each verdict, in the usual order of verdicts."""
    found = Counter(verdicts)
    return [(word, found[word]) for word in VERDICT_MARKS]


def measured_rows(path: Path) -> Measurements:
    """Measurements of a file; empty if the file is missing."""
    return load_measurements(path) if path.is_file() else Measurements([], "no measurements")


def origin(measurements: Measurements) -> dict[str, list[str]]:
    """Protocols, references, code, devices and days of the measurements."""
    rows = measurements.rows
    facts = {
        "Protocol": sorted({row.protocol for row in rows}),
        "Reference": sorted({row.reference_sha256[:16] for row in rows if row.reference_sha256}),
        "Code": sorted({row.code_version for row in rows}),
        "Machine": sorted({row.device for row in rows}),
        "Measured": [measured_days(rows)] if rows else [],
    }
    return {name: values for name, values in facts.items() if values}


def load_generators(sources: PageFiles, measurements: Measurements, tables: Mapping[str, Table]) -> list[Generator]:
    """Facts about each measured run, in the order of ``measurements.csv``."""
    shown: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for table, record in _records(tables):
        for run in record["run"].split() if record["measured"] else []:
            shown.setdefault(run, []).append(table)
            labels.setdefault(run, record["model"])
    return [
        _generator(run, measurements.of_run(run), labels.get(run, ""), shown.get(run, []), sources.folder)
        for run in measurements.runs
    ]


def _generator(run: str, rows: list[Measurement], label: str, tables: list[str], folder: Path) -> Generator:
    trials, seeds = len({row.trial for row in rows}), image_seeds(rows)
    return Generator(
        run=run,
        label=label,
        tables=", ".join(dict.fromkeys(tables)),
        trials=f"{trials} × {rows[0].n:,}",
        seeds=f"{min(seeds)}–{max(seeds)}" if seeds else "",
        network=rows[0].network_sha256[:16],
        training=training_time(folder / "students" / run / "train.jsonl").replace("--", ""),
    )


def load_quoted(tables: Mapping[str, Table]) -> dict[str, list[Quoted]]:
    """The published numbers of each table, row by row."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for table, record in _records(tables):
        if record["published_id"]:
            rows = found.setdefault(table, {})
            rows.setdefault(f"{record['row']} {record['model']}", []).append(record)
    return {table: [_quoted(cells) for cells in rows.values()] for table, rows in found.items()}


def _quoted(cells: list[dict[str, str]]) -> Quoted:
    texts = [f"{c['published']} ± {c['published_std']}" if c["published_std"] else c["published"] for c in cells]
    ids = [cell["published_id"] for cell in cells]
    return Quoted(cells[0]["model"], "; ".join(texts), _together(ids))


def _together(ids: list[str]) -> str:
    """Ids that differ in the last word, as one text: ``table1-ddpm-{fid, is}``."""
    columns = zip(*(name.split("-") for name in ids))
    same = "-".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, columns))
    if len(ids) == 1 or not same:
        return ", ".join(ids)
    return same + "-{" + ", ".join(name.removeprefix(f"{same}-") for name in ids) + "}"


def _records(tables: Mapping[str, Table]) -> Iterator[tuple[str, dict[str, str]]]:
    for table, found in tables.items():
        for record in found.records:
            yield table, {name: "" if record.get(name) is None else str(record[name]) for name in _SHOWN}


_FOLDER = Path(__file__).resolve().parent / "templates"


def write_index(
    results: str | Path,
    out: str | Path,
    title: str = "",
    own: str | Path | None = None,
    again: str = "",
    experiments: Sequence[Experiment] = (),
) -> Path:
    """Writes one HTML page with all results of a preset; the page needs no network access and no other file.

    Args:
        results: Folder of a preset.
        out: The page, e.g. ``results/demo/index.html``.
        title: Headline.
        own: Folder of the preset; layouts in its ``figures`` (captions) take precedence over those of ``config``.
        again: Command that makes the results again; by default that of the preset of this name in ``config``.
        experiments: Experiments, whose answers come first on the page.

    Raises:
        UserError: There are neither tables nor figures, or a file has another form.
    """
    folder, out = Path(results), Path(out)
    sources = PageFiles(folder)
    tables, pictures = load_tables(sources), load_pictures(sources, own)
    if not tables and not pictures and not experiments:
        raise UserError(folder, "no tables and no figures there yet", "run the workflow first")
    preamble, claims = load_verdicts(sources.claims)
    measurements = measured_rows(sources.measurements)
    answers = answers_of(experiments, sources.claims, measurements) if experiments else []
    placed = placed_pictures(pictures, answers)
    decided = [(not measurements.rows and claim.published_verdict) or claim.verdict for claim in claims]
    text = template(_FOLDER / "template.html", rich=_rich, slug=_slug).render(
        title=title or f"Results of the preset {folder.name}",
        preset=folder.name,
        tables={name: page_of(table) for name, table in tables.items()},
        pictures=[picture for picture in pictures if all(picture not in inside for inside in placed.values())],
        answers=answers,
        placed=placed,
        paper_scale=paper_scale,
        preamble=preamble,
        claims=claims,
        counts=counts(decided),
        marks=VERDICT_MARKS,
        signs=SIGNS,
        rules={name: rule.load().text for name, rule in RULES.items() if any(name in claim.rules for claim in claims)},
        kinds={cell.kind for table in tables.values() for row in table.rows for cell in row.cells},
        measured=bool(measurements.rows),
        runs=len(measurements.runs),
        origin=origin(measurements),
        generators=load_generators(sources, measurements, tables),
        quoted=load_quoted(tables),
        again=(again := again or f"snakemake --cores 2 --configfile config/{folder.name}.yaml"),
        setup=_setup(again),
        files=_files(sources, out.parent),
    )
    write_text(out, text)
    return out


def _rich(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html_text(text)))


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def _setup(again: str) -> list[str]:
    """Commands before ``again``: they set up the environment in the checkout that the command names."""
    words = shlex.split(again)
    if "-s" not in words:
        return ["make setup", "source .venv/bin/activate"]
    checkout = shlex.quote(os.path.dirname(words[words.index("-s") + 1]) or ".")
    return [
        "# in the folder that holds results/",
        f"make -C {checkout} setup",
        f"source {checkout}/.venv/bin/activate",
    ]


def _files(sources: PageFiles, base: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Further files of the results: descriptions, and names with addresses."""
    folder = sources.folder
    listed = {
        "Tables": [path for suffix in (".tex", ".csv", ".md") for path in sources.files("tables", suffix)],
        "Figures": [path for suffix in (".pdf", ".csv") for path in sources.files("figures", suffix)],
        "Verdicts": sorted(folder.glob("claims.*")),
        "Paper": sorted(folder.glob("paper.*")),
        "Numbers": [path for path in (sources.measurements,) if path.is_file()],
        "Run": [folder / "manifest.json"],
    }
    return [
        (word, [(path.name, os.path.relpath(path, base)) for path in paths]) for word, paths in listed.items() if paths
    ]


__all__ = ["write_index"]
