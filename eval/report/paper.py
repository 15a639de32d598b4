"""``paper.pdf``: all tables and figures of a preset, the verdicts on its claims, and the origin of the numbers.

The document only collects files of the other steps (``tables/*.tex``, ``figures/*.pdf``, ``claims.json``,
``measurements.csv``, training logs) and computes only sums of training time.

Runs LaTeX, and reports missing packages.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from sida.config.named_files import file_names, find_file
from sida.errors import UserError
from sida.eval.claims.write import marked, read_verdicts
from sida.eval.figures.layout import load_figure_layout
from sida.eval.results.bibliography import bibliography_items
from sida.eval.results.csv_files import read_csv
from sida.eval.results.logs import has_log, log_path, read_log
from sida.eval.results.measurements import Measurements, image_seeds, measured_days, measured_in
from sida.eval.tables.latex import escape
from sida.eval.tables.render import template
from sida.files.atomic import copy_file, write_text
from sida.files.ordinary import file_below, open_ordinary, ordinary_files
from sida.files.text_files import read_text

PACKAGES = "texlive-latex-recommended"
INSTALL = f"apt-get install --no-install-recommends {PACKAGES}"
STYLES = ("booktabs.sty",)


def missing_latex() -> str | None:
    """Missing parts of LaTeX in one line, with the Debian packages that provide them; ``None`` if all are there."""
    if shutil.which("pdflatex") is None:
        return f"pdflatex is not installed ({INSTALL})"
    if shutil.which("kpsewhich") is None:  # packages cannot be checked; LaTeX reports missing ones
        return None
    files = subprocess.run(["kpsewhich", *STYLES], capture_output=True, text=True).stdout
    missing = [style for style in STYLES if style not in files]
    return f"LaTeX has no {' and no '.join(missing)} ({INSTALL})" if missing else None


def compile_latex(source: Path) -> Path:
    """Runs pdflatex twice (for references) in a scratch folder; writes the PDF beside ``source`` when it is complete.

    Raises:
        UserError: LaTeX fails; the message has its first error.
    """
    folder = source.parent
    tables, figures = in_order(folder, "tables", ".tex"), in_order(folder, "figures", ".pdf")
    with tempfile.TemporaryDirectory() as scratch:
        # LaTeX would follow links and wait for pipes, which a stranger's table may name: it gets copies of files.
        work = Path(scratch) / "work"
        for path in (source, *tables, *figures):
            name = path.relative_to(folder).as_posix()
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            with open_ordinary(path) as stream, open(work / name, "wb") as copy:
                shutil.copyfileobj(stream, copy)
        options = ["-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={scratch}"]
        # Fixed time stamps, so that the same results give the same bytes.
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
        environment = {**os.environ, "max_print_line": "1000", "SOURCE_DATE_EPOCH": epoch, "FORCE_SOURCE_DATE": "1"}
        # A results folder may come from a stranger, so its LaTeX reads only files in it and LaTeX's own files.
        environment |= {"openin_any": "p", "openout_any": "p", "TEXMFOUTPUT": scratch}
        for _ in range(2):
            try:
                process = subprocess.run(
                    ["pdflatex", *options, source.name],
                    cwd=work,
                    env=environment,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=600,
                )
            except subprocess.TimeoutExpired:
                raise UserError(source, "pdflatex did not finish within ten minutes") from None
            if process.returncode != 0:
                fault = next(
                    (line[2:] for line in process.stdout.splitlines() if line.startswith("! ")), "unknown error"
                )
                unknown_letter = "Unicode character" in fault
                remedy = "use Latin letters in labels" if unknown_letter else f"packages needed: {PACKAGES}"
                raise UserError(source, f"LaTeX stopped: {fault.strip()}", remedy)
        pdf = source.with_suffix(".pdf")
        copy_file(Path(scratch) / pdf.name, pdf)
    return pdf


_NATURAL = re.compile(r"(\d+)")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Number of a table that is compiled alone, and the references that it has then, in its LaTeX.
_TABLE_NUMBER = re.compile(r"^ *\\begin\{document\}\\renewcommand\{\\thetable\}\{(.*)\}$", re.MULTILINE)
_CITED = re.compile(r"\\bibitem\{([\w-]+)\}")
_FIGURE_NUMBER = re.compile(r"figure(\d+)")
#: Number at the start of a figure's title, which the document gives itself.
_NUMBER_OF_TITLE = re.compile(r"^Figure \d+\. ")
_NUMBERED = re.compile(r"(?:table|figure)\d")


def build_paper(results: str | Path, title: str = "", own: str | Path | None = None) -> tuple[Path, Path | None]:
    """Writes ``paper.tex`` and, where LaTeX is installed, ``paper.pdf`` into a preset's folder.

    Args:
        results: Folder of a preset.
        title: Headline.
        own: Folder of the preset; layouts in its ``figures`` (titles, captions) take precedence over ``config``.

    Returns:
        The paths; ``None`` instead of the PDF without LaTeX (:func:`~sida.eval.report.paper.missing_latex`).

    Raises:
        UserError: There are neither tables nor figures, or LaTeX fails (the message has its first error).
    """
    folder = Path(results)
    tables, figures = in_order(folder, "tables", ".tex"), in_order(folder, "figures", ".pdf")
    if not tables and not figures:
        raise UserError(folder, "no tables and no figures there yet", "run the workflow first")
    for path in [*tables, *figures]:
        # The name becomes part of LaTeX, and a results folder may come from someone else.
        if not _PLAIN_NAME.fullmatch(path.name):
            raise UserError(path, "LaTeX would not take the name as it is", "rename it to letters, digits, . and -")
    source = folder / "paper.tex"
    write_text(source, paper_source(folder, tables, figures, title, own))
    return source, None if missing_latex() else compile_latex(source)


def in_order(folder: Path, kind: str, suffix: str) -> list[Path]:
    """Tables or figures: main first, then the numbered ones in numeric order (table2 before table10), then the others.

    Args:
        folder: Folder of a preset.
        kind: ``tables`` or ``figures``.
        suffix: Suffix of the files.

    Raises:
        UserError: There is a link, a pipe or a device in the folder.
    """

    def key(path: Path) -> list[str | int]:
        # main, then numbered ones, then others.
        parts: list[str | int] = [path.stem != "main", not _NUMBERED.search(path.stem)]
        return parts + [int(part) if part.isdecimal() else part for part in _NATURAL.split(path.stem)]

    names = [name for name in ordinary_files(folder) if name.startswith(f"{kind}/") and name.endswith(suffix)]
    return sorted((folder / name for name in names if name.count("/") == 1), key=key)


def paper_source(
    folder: Path, tables: list[Path], figures: list[Path], title: str, own: str | Path | None = None
) -> str:
    """The LaTeX of the whole document; paths are relative to ``folder``."""
    measurements = measured_in(folder)
    texts = [read_text(table) for table in tables]
    numbers = [match[1] if (match := _TABLE_NUMBER.search(text)) else None for text in texts]
    cited = [key for text in texts for key in _CITED.findall(text)]
    stems = [_FIGURE_NUMBER.fullmatch(figure.stem) for figure in figures]
    page = template(Path(__file__).parent / "templates" / "paper.tex", tex=escape)
    return page.render(
        title=title or f"Results of the preset {folder.absolute().name}",
        tables=[*zip(_numbers(numbers), tables)],
        figures=[*zip(_numbers([str(int(match[1])) if match else None for match in stems]), figures)],
        captions={figure.stem: figure_caption(figure, own) for figure in figures},
        **_claims(file_below(folder, "claims.json"), bool(measurements.rows)),
        references=bibliography_items(cited),
        generators=[*generators(folder, measurements).values()],
        origin={name: ", ".join(values) for name, values in origin(measurements).items()},
    )


def _numbers(texts: list[str | None]) -> list[str]:
    """Numbers of tables or figures: the paper's (once each), and A1, A2, ... for the others."""
    prefix = "A" if any(texts) else ""
    rest = (f"{prefix}{number}" for number in count(1))
    used_numbers: set[str] = set()
    numbers = []
    for number in texts:
        unique = number if number and number not in used_numbers else next(rest)
        used_numbers.add(unique)
        numbers.append(unique)
    return numbers


def figure_caption(figure: Path, own: str | Path | None = None) -> str:
    """Title (without its number) and caption of a figure's layout; the name of the file without these."""
    folders = [Path(own)] if own else []
    if figure.stem not in file_names("figures", folders):
        return figure.stem
    layout = load_figure_layout(find_file("figures", figure.stem, folders))
    parts = [_NUMBER_OF_TITLE.sub("", layout.title), layout.caption]
    sentences = [part.rstrip(".") for part in parts if part] or [figure.stem]
    data = figure.with_suffix(".csv")
    rows = [row for _, row in read_csv(data)[1]] if data.is_file() else []
    if over := _bands_over(rows):
        sentences.append(f"Bands: ± sample standard deviation over {over}")
    if {row.get("kind") for row in rows} == {"line"}:
        sentences.append("Without curves: the papers print no numbers of them, and nothing was trained here")
    return ". ".join(sentences) + "." * (len(sentences) > 1)


def _bands_over(rows: Sequence[Mapping[str, str]]) -> str:
    """Origin of the spread of a figure's curves (``trials``, ``seeds``), by the figure's data; empty without one."""
    return " and ".join(dict.fromkeys(row["over"] for row in rows if row.get("kind") == "curve" and row.get("std")))


def _claims(path: Path, has_measured: bool) -> dict[str, Any]:
    """Preamble, heads and rows of the verdicts, from measurements and from published numbers as far as they exist."""
    if not path.is_file():
        return {"claims": None}
    record = read_verdicts(path)
    has_published = any("by_published" in claim for claim in record["claims"])
    heads = ["here"] * (has_measured or not has_published) + ["as published"] * has_published
    rows = []
    for claim in record["claims"]:
        by = marked(claim["printed"]) if claim["printed"] else "--"
        verdicts = {"here": marked(claim), "as published": by}
        # Without measurements, claims that published numbers cannot decide are left out.
        if "here" in heads or verdicts["as published"] != "--":
            rows.append([claim["id"], claim["statement"], *(verdicts[head] for head in heads)])
    return {"claims": record, "heads": heads, "verdicts": rows}


def generators(folder: Path, measurements: Measurements) -> dict[str, dict[str, Any]]:
    """Trials, images, seeds, network and training time of each measured generator."""
    facts = {}
    for run in measurements.runs:
        rows = measurements.of_run(run)
        seeds = image_seeds(rows)
        facts[run] = {
            "run": run,
            "trials": len({row.trial for row in rows}),
            "n": f"{rows[0].n:,}",
            "seeds": f"{min(seeds):,}–{max(seeds):,}" if seeds else "",
            "network": rows[0].network_sha256[:16],
            "training": training_time(log_path(folder, run, "train")),
        }
    return facts


def origin(measurements: Measurements) -> dict[str, list[str]]:
    """Protocols, references, feature networks, code, machines and days of measurements; digests by 16 digits."""
    rows = measurements.rows
    facts = {
        "Protocol": {row.protocol for row in rows},
        "Reference": {row.reference_sha256[:16] for row in rows},
        "Feature network": {row.extractor_sha256[:16] for row in rows},
        "Code": {row.code_version for row in rows},
        "Machine": {row.device for row in rows},
        "Measured": {measured_days(rows)} if rows else set(),
    }
    values_by_name = {name: sorted(filter(None, values)) for name, values in facts.items()}
    return {name: values for name, values in values_by_name.items() if values}


def training_time(log: Path) -> str:
    """Total training time of a run as ``1.4 min`` or ``12.3 h``; empty without a log."""
    if not has_log(log):
        return ""
    seconds = sum(float(tick.get("seconds") or 0) for tick in read_log(log))
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
