"""Pages that agree with stored results; numbers between markers: ``<!--= miniature seeds fd t30-sida -->5.43<!--/-->``.

What a marker says is computed, and what stands between the markers is replaced by it. Its words: the name of a
stored study and a query to it (:mod:`workflow.docs.study`), or one of :data:`~workflow.docs.counts.COUNTS`
with arguments.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sida.errors import UserError, suggestion
from sida.files.atomic import write_text
from workflow.docs.counts import COUNTS
from workflow.docs.queries import answer
from workflow.docs.settings import schemas
from workflow.docs.stored import store
from workflow.docs.study import Study, opened
from workflow.docs.study_page import draw, study_page
from workflow.preset import Preset
from workflow.preset.spec_files import row_digest

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"<!--= (?P<words>.*?) -->(?P<text>.*?)<!--/-->", re.DOTALL)


def filled(text: str, studies: Mapping[str, Study], root: Path, where: str) -> str:
    """A page with what its markers say now.

    Args:
        text: The page.
        studies: Stored studies by name.
        root: The repository.
        where: Page named in errors.

    Raises:
        UserError: An unknown word, run, metric or claim.
    """

    def value(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start()) + 1
        words = shlex.split(found["words"])
        return f"<!--= {found['words']} -->{_value(words, studies, root, f'{where}:{line}')}<!--/-->"

    if text.count("<!--=") != len(MARKER.findall(text)):
        raise UserError(f"{where}: a marker <!--= ... --> has no end <!--/-->")
    return MARKER.sub(value, text)


def _value(words: list[str], studies: Mapping[str, Study], root: Path, where: str) -> str:
    first = words[0] if words else ""
    try:
        if first in COUNTS:
            return COUNTS[first](root, *words[1:])
        if first in studies:
            return answer(studies[first], words[1:])
    except (UserError, TypeError) as error:
        raise UserError(f"{where}: <!--= {' '.join(words)} -->: {error}") from None
    raise UserError(
        f"{where}: <!--= {' '.join(words)} -->: no count and no stored study (docs/NAME/data) "
        f"of this name{suggestion(first, [*COUNTS, *studies])}"
    )


def write_docs(
    pages: Sequence[str | Path] = (),
    *,
    check: bool = False,
    results: str | Path | None = None,
    config: str | None = None,
    page: str | None = None,
    title: str | None = None,
    add: bool = False,
    root: Path = ROOT,
) -> list[str]:
    """Writes (or only names) what is stale; returns a line for each page and schema.

    Args:
        pages: Pages; by default ``README.md``, ``docs/*.md`` and ``docs/reference/*.md``.
        check: Change nothing.
        results: Results of a preset to keep beside their page first.
        config: With ``results``: the preset's configuration.
        page: With ``results``: ``docs/reference/NAME.md``.
        title: With ``results``: headline of the page; by default the preset's title.
        add: With ``results``: stored rows that these results lack stay, where the preset asks for the same still.
        root: The repository.

    Raises:
        UserError: Faulty arguments, stored studies or markers.
    """
    if results and check:
        raise UserError("--store and --check exclude each other")
    kept = _keep(results, config, page, title, add, root) if results else None
    docs, reference = root / "docs", root / "docs" / "reference"
    everything = [root / "README.md", *sorted(docs.glob("*.md")), *sorted(reference.glob("*.md"))]
    wanted = [Path(page).resolve() for page in pages] or [*everything, *([kept] if kept else [])]
    # The schemas of a repository are written with its pages.
    texts = schemas(root) if (root / "workflow").is_dir() else {}
    with opened(root, sorted(docs.glob("*/data"))) as studies:
        if results and kept:
            draw(studies[kept.stem], Path(results), docs / kept.stem)
        for path in dict.fromkeys(wanted):
            about = studies.get(path.stem) if path.parent == reference else None
            if path.suffix != ".md" or not (about or path.is_file()):
                raise UserError(f"{path}: no such page (*.md)")
            old = path.read_text(encoding="utf-8") if path.is_file() else ""
            name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
            texts[path] = study_page(about, f"../{path.stem}") if about else filled(old, studies, root, name)
    changed = []
    for path, new in texts.items():
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if new != old:
            name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
            changed.append(f"{name}: {_first_difference(old, new)}")
            if not check:
                write_text(path, new)
    return changed


def _keep(results: str | Path, config: str | None, page: str | None, title: str | None, add: bool, root: Path) -> Path:
    """Keeps results beside their page, as far as they are text; returns the page."""
    if not config or not page:
        raise UserError(
            "--store needs --config (the preset) and --page (docs/reference/NAME.md, with its data in docs/NAME/data)"
        )
    path = root / page
    if path.suffix != ".md" or path.parent != root / "docs" / "reference":
        raise UserError(f"--page {page}: must be docs/reference/NAME.md")
    preset = Preset.load(root / config)
    asked = {run: row_digest(preset, run) for run in preset.runs}
    about = {"preset": config, "title": title or preset.config["title"]}
    store(results, root / "docs" / path.stem / "data", about, asked, add)
    return path


def _first_difference(old: str, new: str) -> str:
    for number, (before, after) in enumerate(zip(old.splitlines(), new.splitlines()), start=1):
        if before != after:
            return f"line {number} differs: {after.strip()[:100]}"
    return "lines were added or left out"
