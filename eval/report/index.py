"""``index.html``: all results of a preset on one page without other files or network access.

The content is read from the files of the other steps; only sums of time are computed.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.claims.model import RULES, SIGNS
from eval.claims.write import CHANCE, VERDICT_MARKS, read_verdicts
from eval.report.answers import Answer, answers_of, paper_scale
from eval.report.paper import figure_caption, in_order, training_time
from eval.results.summary import (
    Measurements,
    image_seeds,
    load_measurements,
    measured_days,
    measurements_file,
)
from eval.tables.files import load_table
from eval.tables.model import Table
from eval.tables.render import html_text, page_of, template
from sida.data.archive import read_rgb
from sida.errors import UserError
from sida.files.atomic import write_text

if TYPE_CHECKING:
    from markupsafe import Markup

    from eval.claims.experiments import Experiment


#: Keys of a table's records that the page shows.
_SHOWN = ("row", "model", "run", "measured", "published_id", "published", "published_std")


class ShownPicture(NamedTuple):
    """A figure: stem of its file, caption, and the picture as a ``data:`` address."""

    name: str
    caption: str
    data: str


def load_pictures(folder: Path, own: str | Path | None) -> list[ShownPicture]:
    """The figures of a preset, in 256 colours."""
    pictures = []
    for path in in_order(folder / "figures", ".png"):
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


def load_verdicts(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Introduction of the verdicts, and their records as the page shows them; empty without decided claims.

    Raises:
        UserError: The file has another form.
    """
    if not path.is_file():
        return "", []
    record = read_verdicts(path)
    words = (record.get("preamble", ""), record.get("comparisons", ""))
    return " ".join(filter(None, words)), [_claim(claim) for claim in record["claims"]]


def _claim(record: dict[str, Any]) -> dict[str, Any]:
    printed = record.get("by_published")
    # Claims that only a measurement can decide have no published verdict.
    if printed and not any(finding["numbers"] for finding in printed["findings"]):
        printed = None
    origin = [f"source: {record['source']}"] if record["source"] else []
    origin += [f"mirrors {record['counterpart']}"] if record["counterpart"] else []
    return record | {
        "origin": "; ".join(origin),
        "note": " ".join(filter(None, (record["note"], _CHANCE if record.get("chance") else ""))),
        "published_verdict": printed["verdict"] if printed else None,
        "published_evidence": printed["evidence"] if printed else [],
        "rules": [finding["rule"] for finding in record["findings"]],
    }


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


def load_generators(folder: Path, measurements: Measurements, tables: Mapping[str, Table]) -> list[dict[str, str]]:
    """Facts about the measurements of each run, in the order of ``measurements.csv``."""
    shown: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for table, record in _records(tables):
        for run in record["run"].split() if record["measured"] else []:
            shown.setdefault(run, []).append(table)
            labels.setdefault(run, record["model"])
    found = []
    for run in measurements.runs:
        rows = measurements.of_run(run)
        seeds = image_seeds(rows)
        facts = {
            "run": run,
            "label": labels.get(run, ""),
            "tables": ", ".join(dict.fromkeys(shown.get(run, []))),
            "trials": f"{len({row.trial for row in rows})} × {rows[0].n:,}",
            "seeds": f"{min(seeds)}–{max(seeds)}" if seeds else "",
            "network": rows[0].network_sha256[:16],
            "training": training_time(folder / "students" / run / "train.jsonl").replace("--", ""),
        }
        found.append(facts)
    return found


def load_quoted(tables: Mapping[str, Table]) -> dict[str, list[dict[str, str]]]:
    """The published numbers of each table with their ids in ``results/published``, row by row."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for table, record in _records(tables):
        if record["published_id"]:
            rows = found.setdefault(table, {})
            rows.setdefault(f"{record['row']} {record['model']}", []).append(record)
    return {table: [_quoted(cells) for cells in rows.values()] for table, rows in found.items()}


def _quoted(cells: list[dict[str, str]]) -> dict[str, str]:
    texts = [f"{c['published']} ± {c['published_std']}" if c["published_std"] else c["published"] for c in cells]
    ids = _together([cell["published_id"] for cell in cells])
    return {"row": cells[0]["model"], "numbers": "; ".join(texts), "ids": ids}


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
    tables = {path.stem: load_table(path) for path in in_order(folder / "tables", ".json")}
    pictures = load_pictures(folder, own)
    if not tables and not pictures and not experiments:
        raise UserError(folder, "no tables and no figures there yet", "run the workflow first")
    preamble, claims = load_verdicts(folder / "claims.json")
    file = measurements_file(folder)
    measurements = load_measurements(file) if file.is_file() else Measurements([], "no measurements")
    answers = answers_of(experiments, folder / "claims.json", measurements) if experiments else []
    placed = placed_pictures(pictures, answers)
    decided = Counter((not measurements.rows and c["published_verdict"]) or c["verdict"] for c in claims)
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
        counts=[(verdict, decided[verdict]) for verdict in VERDICT_MARKS],
        marks=VERDICT_MARKS,
        signs=SIGNS,
        rules={name: RULES[name].load().text for name in RULES if any(name in claim["rules"] for claim in claims)},
        kinds={cell.kind for table in tables.values() for row in table.rows for cell in row.cells},
        measured=bool(measurements.rows),
        runs=len(measurements.runs),
        origin=origin(measurements),
        generators=load_generators(folder, measurements, tables),
        quoted=load_quoted(tables),
        again=(again := again or f"snakemake --cores 2 --configfile config/{folder.name}.yaml"),
        setup=_setup(again),
        files=_files(folder, out.parent),
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


def _files(folder: Path, base: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Further files of the results: descriptions, and names with addresses."""
    listed = {
        "Tables": [path for suffix in (".tex", ".csv", ".md") for path in in_order(folder / "tables", suffix)],
        "Figures": [path for suffix in (".pdf", ".csv") for path in in_order(folder / "figures", suffix)],
        "Verdicts": sorted(folder.glob("claims.*")),
        "Paper": sorted(folder.glob("paper.*")),
        "Numbers": [path for path in (measurements_file(folder),) if path.is_file()],
        "Run": [folder / "manifest.json"],
    }
    return [
        (word, [(path.name, os.path.relpath(path, base)) for path in paths]) for word, paths in listed.items() if paths
    ]


def reduced_png(source: Path) -> bytes:
    """A PNG file of the same size in 256 colours, which is much smaller."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(read_rgb(source)).quantize(256, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
