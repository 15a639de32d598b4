"""``index.html``: all results of a preset on one page without other files or network access.

The content is read from the files of the other steps; only sums of time are computed.
"""

from __future__ import annotations

import io
import os
import re
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sida.errors import UserError
from sida.eval.claims.rules import RULES, rule_text
from sida.eval.claims.write import CHANCE, VERDICT_MARKS, read_verdicts
from sida.eval.report.paper import figure_caption, generators, in_order, origin
from sida.eval.results.csv_files import read_csv
from sida.eval.results.measurements import Measurements, measured_in, measurements_file
from sida.eval.tables.render import html_text, spelled, template
from sida.files.atomic import write_text
from sida.files.convert import convert
from sida.files.ordinary import file_below, open_ordinary
from sida.files.text_files import read_text

if TYPE_CHECKING:
    from markupsafe import Markup


#: Note on a verdict that many comparisons leave open.
_CHANCE = f"{CHANCE} The verdict needs a comparison that does not survive the correction for many comparisons."


def _generators(folder: Path, measurements: Measurements) -> list[dict[str, Any]]:
    """Facts about the measurements of each run, with its row of the tables and their names."""
    tables_of: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for path in in_order(folder, "tables", ".csv"):
        for _, record in read_csv(path)[1]:
            for run in (record.get("run") or "").split() if record.get("measured") else []:
                tables_of.setdefault(run, []).append(path.stem)
                labels.setdefault(run, record.get("model") or "")
    return [
        {**facts, "label": labels.get(run, ""), "tables": ", ".join(dict.fromkeys(tables_of.get(run, [])))}
        for run, facts in generators(folder, measurements).items()
    ]


_FOLDER = Path(__file__).resolve().parent / "templates"


def write_index(
    results: str | Path,
    out: str | Path,
    title: str = "",
    own: str | Path | None = None,
    again: str = "",
) -> Path:
    """Writes one HTML page with all results of a preset; the page needs no network access and no other file.

    Args:
        results: Folder of a preset.
        out: The page, e.g. ``results/demo/index.html``.
        title: Headline.
        own: Folder of the preset; layouts in its ``figures`` (captions) take precedence over ``config``.
        again: Command that makes the results again; without it the page names none.

    Raises:
        UserError: The results are missing, or a file has another form.
    """
    folder, out = Path(results), Path(out)
    tables = {path.stem: _table(path) for path in in_order(folder, "tables", ".html")}
    pictures = _pictures(folder, own)
    measurements = measured_in(folder)
    # A search has trials and no tables.
    if not (tables or pictures or measurements.rows):
        raise UserError(folder, "no results there yet", "run the workflow first")
    bodies = "".join(table["table"] for table in tables.values())
    text = template(_FOLDER / "template.html", rich=_rich).render(
        title=spelled(title or f"Results of the preset {folder.absolute().name}"),
        preset=folder.absolute().name,
        tables=tables,
        pictures=pictures,
        **_verdicts(folder, bool(measurements.rows)),
        kinds=set(re.findall(r'<td class="(\w+)', bodies)),
        bold="<b>" in bodies,
        measured=bool(measurements.rows),
        runs=len(measurements.runs),
        origin=origin(measurements),
        generators=_generators(folder, measurements),
        again=again,
        files=_files(folder, out.parent),
    )
    write_text(out, text)
    return out


#: Parts of the page of a table (``eval/tables/page.html``), whose texts hold no elements.
_TABLE_PAGE = re.compile(
    r"""<h1>(?P<title>.*?)</h1>\s*<p>(?P<caption>.*?)</p>\s*(?P<wide><p class="swipe">.*?</p>)?\s*"""
    r"""<div class="scroll"[^>]*>(?P<table>.*?)</div>\s*<div class="notes">(?P<notes>.*?)</div>""",
    re.DOTALL,
)


def _table(path: Path) -> dict[str, Any]:
    """Parts of a table's page as HTML: title, caption, table, notes, and whether it is wide for a narrow screen.

    Raises:
        UserError: The file is missing, or is not the page of a table.
    """
    parts = _TABLE_PAGE.search(read_text(path))
    if parts is None:
        raise UserError(path, "is not the page of a table", "build the table again")
    return parts.groupdict()


def _pictures(folder: Path, own: str | Path | None) -> list[dict[str, str]]:
    """Figures with their captions, as text that a page embeds."""
    return [
        {
            "name": path.stem,
            "caption": spelled(figure_caption(path, own)),
            "data": b64encode(reduced_png(path)).decode("ascii"),
        }
        for path in in_order(folder, "figures", ".png")
    ]


def _verdicts(folder: Path, measured: bool) -> dict[str, Any]:
    """Claims, their counts by verdict and their rules; without measurements the printed verdicts count."""
    path = file_below(folder, "claims.json")
    verdicts: dict[str, Any] = read_verdicts(path) if path.is_file() else {"claims": []}
    claims = verdicts["claims"]
    decided = Counter(((not measured and claim["printed"]) or claim)["verdict"] for claim in claims)
    rule_names = {finding["rule"] for claim in claims for finding in claim["findings"]}
    return {
        "preamble": " ".join(filter(None, (verdicts.get("preamble"), verdicts.get("comparisons")))),
        "claims": claims,
        "whose": "the papers' claims" if any(claim["source"] for claim in claims) else "this study's statements",
        "chance": _CHANCE,
        "counts": [(verdict, decided[verdict]) for verdict in VERDICT_MARKS],
        "marks": VERDICT_MARKS,
        "rules": {name: rule_text(name) for name in RULES if name in rule_names},
    }


def _rich(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html_text(text)))


def _files(folder: Path, base: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Further files of the results: descriptions, and names with addresses."""
    files = {
        "Tables": [path for suffix in (".tex", ".csv", ".md") for path in in_order(folder, "tables", suffix)],
        "Figures": [path for suffix in (".pdf", ".csv") for path in in_order(folder, "figures", suffix)],
        "Verdicts": sorted(folder.glob("claims.*")),
        "Paper": sorted(folder.glob("paper.*")),
        "Numbers": [path for path in (measurements_file(folder),) if path.is_file()],
        "Run": [folder / "manifest.json"],
    }
    return [
        (word, [(path.name, quote(os.path.relpath(path, base))) for path in paths])
        for word, paths in files.items()
        if paths
    ]


def reduced_png(source: Path) -> bytes:
    """A PNG file of the same size in 256 colours, which is much smaller."""
    from PIL import Image

    stream = io.BytesIO()
    with open_ordinary(source) as file:
        picture = Image.fromarray(convert("sida.data.reader:rgb", file, source)[1]["pixels"])
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
