"""Writes the index page of a preset from its template."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eval.claims.model import RULES
from eval.claims.write import MARKS
from eval.report.index import content
from eval.report.paper import in_order
from eval.tables.html import html_text
from sida.errors import UserError
from sida.io import write_text

if TYPE_CHECKING:
    from jinja2 import Template

_FOLDER = Path(__file__).resolve().parent


def write_index(
    results: str | Path, out: str | Path, title: str = "", own: str | Path | None = None, again: str = ""
) -> Path:
    """Writes one HTML page with everything that a preset found; it needs no network and no other file.

    Args:
        results: Folder of a preset.
        out: The page, e.g. ``results/demo/index.html``.
        title: Headline.
        own: Folder of the preset; layouts in its ``figures`` (captions) come before those of ``config``.
        again: Command that makes the results again; by default that of a preset of this name in ``config``.

    Raises:
        UserError: No tables and no figures there, or a file that is not what the other steps write.
    """
    folder, out = Path(results), Path(out)
    tables, pictures = content.load_tables(folder), content.load_pictures(folder, own)
    if not tables and not pictures:
        raise UserError(f"{folder}: no tables and no figures there yet; run the workflow first")
    preamble, claims = content.load_claims(folder)
    measurements = content.measured_rows(folder)
    decided = [(not measurements.rows and claim.published_verdict) or claim.verdict for claim in claims]
    text = _template().render(
        title=title or f"Results of the preset {folder.name}",
        preset=folder.name,
        tables=tables,
        pictures=pictures,
        preamble=preamble,
        claims=claims,
        counts=content.counts(decided),
        marks=MARKS,
        rules={rule: RULES[rule] for rule in RULES if any(rule in claim.rules for claim in claims)},
        kinds=[
            kind for kind in ("measured", "published") if any(f'class="{kind} ' in t.table for t in tables.values())
        ],
        measured=bool(measurements.rows),
        runs=len(measurements.runs),
        origin=content.origin(measurements),
        generators=content.load_generators(folder, measurements),
        quoted=content.load_quoted(folder),
        again=again or f"snakemake --cores 2 --configfile config/{folder.name}.yaml",
        files=_files(folder, out.parent),
    )
    write_text(out, text)
    return out


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["rich"] = lambda text: Markup(html_text(text))
    environment.filters["slug"] = lambda text: text.replace(" ", "-")
    return environment.get_template("template.html")


def _files(folder: Path, base: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """What lies beside the page: words, and the files' names with their addresses."""
    numbers = [path for name in ("measurements.csv",) if (path := folder / name).is_file()]
    listed = {
        "Tables": [path for suffix in (".tex", ".csv", ".md") for path in in_order(folder / "tables", suffix)],
        "Figures": [path for suffix in (".pdf", ".csv") for path in in_order(folder / "figures", suffix)],
        "Verdicts": sorted(folder.glob("claims.*")),
        "Paper": sorted(folder.glob("paper.*")),
        "Numbers": [*numbers, folder / "manifest.json"],
        "Run": [folder / "report.html"],
    }
    return [
        (word, [(path.name, os.path.relpath(path, base)) for path in paths]) for word, paths in listed.items() if paths
    ]
