"""Writes the index page of a preset from its template."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from eval.claims.model import RULES, SIGNS
from eval.claims.write import VERDICT_MARKS
from eval.report.answers import answers_of, paper_scale
from eval.report.index import content
from eval.tables.html import html_text, page_of
from eval.tables.templates import template
from sida.errors import UserError
from sida.files.atomic import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from eval.claims.experiments import Experiment

_FOLDER = Path(__file__).resolve().parent


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
    sources = content.PageFiles(folder)
    tables, pictures = content.load_tables(sources), content.load_pictures(sources, own)
    if not tables and not pictures and not experiments:
        raise UserError(f"{folder}: no tables and no figures there yet; run the workflow first")
    preamble, claims = content.load_verdicts(sources.claims)
    measurements = content.measured_rows(sources.measurements)
    answers = answers_of(experiments, sources.claims, measurements) if experiments else []
    placed = content.placed(pictures, answers)
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
        counts=content.counts(decided),
        marks=VERDICT_MARKS,
        signs=SIGNS,
        rules={rule: RULES[rule] for rule in RULES if any(rule in claim.rules for claim in claims)},
        kinds={cell.kind for table in tables.values() for row in table.rows for cell in row.cells},
        measured=bool(measurements.rows),
        runs=len(measurements.runs),
        origin=content.origin(measurements),
        generators=content.load_generators(sources, measurements, tables),
        quoted=content.load_quoted(tables),
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


def _files(sources: content.PageFiles, base: Path) -> list[tuple[str, list[tuple[str, str]]]]:
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
