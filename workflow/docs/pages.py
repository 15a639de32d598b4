"""Fills markers in pages with stored results: ``<!--= miniature.seeds("fd", "t30-sida") -->5.43<!--/-->``.

A marker is a Jinja expression, whose value replaces the text before ``<!--/-->``. Names in expressions are the stored
studies (:class:`workflow.docs.numbers.StudyNumbers`; ``rivals_seconds`` is ``rivals-seconds``) and the functions of
:mod:`workflow.docs.counts`.

Two tables: the papers' claims, with the verdicts of their counterparts in stored studies or the reason why there is
none; and rows that two studies trained with equal settings, which says how far other processors and code agree.
"""

from __future__ import annotations

import functools
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from eval.claims.model import Claim, load_claims
from eval.claims.rules import RatioRule
from eval.results.stored import STORED, store
from eval.tables.render import markdown
from sida.config.resources import ROOT
from sida.errors import UserError, suggestion
from sida.files.atomic import write_text
from workflow.docs.counts import functions
from workflow.docs.numbers import StudyNumbers
from workflow.docs.settings import schemas
from workflow.docs.study import Study, opened
from workflow.docs.words import block
from workflow.preset import Preset
from workflow.preset.files import preset_files
from workflow.preset.spec_files import row_digest

#: Columns of the table, with their heads.
_COLUMNS = {"for": "for it", "against": "against it", "open": "not decided", "other": "other question, or why none"}
#: Words before answers to other questions, beside the reason why theirs is not decided.
_OTHER = "Asked instead, which does not decide it:"
_SPEAKS = {"supported": "for", "contradicted": "against"}


def paper_claims(root: Path, studies: Mapping[str, Study]) -> str:
    """Table with one row for each claim about the papers.

    Args:
        root: The repository.
        studies: Stored studies by name.
    """
    columns: dict[str, dict[str, list[str]]] = {}
    for study in studies.values():
        numbers = StudyNumbers(study)
        home, base = study.folder.parent, root / "studies"
        home = home.relative_to(base) if home.is_relative_to(base) else Path(home.name)
        places = {claim: f"#{one.experiment.id}" for one in study.answers for claim in one.experiment.claims}
        for claim in study.claims:
            link = f"[{claim.id}]({home}/README.md{places.get(claim.id, '')})"
            word, statement = numbers.word(claim.id), markdown(claim.statement)
            place = _SPEAKS.get(study.decided[claim.id]["verdict"], "open")
            turned = {"for": "against", "against": "for"}.get(place, place)
            for theirs, column in ((claim.counterpart, place), (claim.opposite, turned), (claim.related, "other")):
                # An answer to another question is no verdict about theirs.
                line = f"{link}: {statement} ({word})" if column == "other" else f"{link} **{word}**: {statement}"
                for one in filter(None, theirs.split(", ")):
                    columns.setdefault(one, {}).setdefault(column, []).append(line)
    rows = [f"| claim of the papers | {' | '.join(_COLUMNS.values())} |", "|---" * (1 + len(_COLUMNS)) + "|"]
    claims = [claim for path in sorted((root / "studies").glob("*/claims.yaml")) for claim in load_claims(path)]
    for claim in claims:
        if claim.scope == "paper":
            found = columns.get(claim.id, {})
            cells = ["<br>".join(found.get(column, ())) or "–" for column in _COLUMNS]
            if claim.here or not found:
                asked = [_OTHER, *found["other"]] if found.get("other") else []
                cells[-1] = "<br>".join([markdown(claim.here) or _why_none(claim), *asked])
            rows.append(f"| {claim.id}: {markdown(claim.statement)} | {' | '.join(cells)} |")
    return block(rows)


def _why_none(claim: Claim) -> str:
    """Reason why a claim has no counterpart, by the numbers that its rules compare."""
    if not claim.parts:
        return markdown(claim.reason)
    operands = [one for part in claim.parts for one in part.operands.values()]
    counted = all(isinstance(part, RatioRule) and part.quantity == "nfe" for part in claim.parts)
    if counted or not any(one.run or one.where for one in operands):
        return "Counted, not measured."
    if any(one.published for one in operands):
        return "Compares with printed numbers of networks that no stored study has."
    return "No stored study has rows for it."


MARKER = re.compile(r"<!--= (?P<words>.*?) -->(?P<text>.*?)<!--/-->", re.DOTALL)
_EXPRESSIONS = SandboxedEnvironment(undefined=StrictUndefined)


def filled(text: str, studies: Mapping[str, Study], root: Path, where: str) -> str:
    """Fills the markers of a page with their values; returns the page.

    Args:
        text: The page.
        studies: Stored studies by name.
        root: The repository.
        where: Page named in errors.

    Raises:
        UserError: A faulty expression, an unknown name, run, metric or claim.
    """
    names: dict[str, Any] = {"paper_claims": functools.partial(paper_claims, root, studies), **functions(root)}
    names["repeated_rows"] = lambda first, second: repeated_table(studies[first], studies[second], (first, second))
    names |= {name.replace("-", "_"): StudyNumbers(study) for name, study in studies.items()}

    def value(found: re.Match[str]) -> str:
        words, line = found["words"], text.count("\n", 0, found.start()) + 1
        return f"<!--= {words} -->{evaluated(words, names, f'{where}:{line}')}<!--/-->"

    if text.count("<!--=") != len(MARKER.findall(text)):
        raise UserError(where, "a marker <!--= ... --> has no end <!--/-->")
    return MARKER.sub(value, text)


def evaluated(words: str, names: Mapping[str, Any], where: str) -> str:
    """The value of an expression, as text.

    Raises:
        UserError: The expression is faulty; the message has its place.
    """
    try:
        # Converting an undefined value to text raises an error with its name.
        return str(_EXPRESSIONS.compile_expression(words, undefined_to_none=False)(**names))
    except (UserError, TemplateError, TypeError) as error:
        unknown = re.search(r"'([\w-]+)' is undefined|no attribute '([\w-]+)'", str(error))
        known = [*names] if unknown and unknown[1] else [name for name in dir(StudyNumbers) if name[0] != "_"]
        near = suggestion(unknown[1] or unknown[2], known) if unknown else ""
        raise UserError(where, f"<!--= {words} -->: {error}{near}") from None


def write_docs(
    pages: Sequence[str | Path] = (),
    *,
    check: bool = False,
    results: str | Path | None = None,
    config: str | None = None,
    page: str | None = None,
    title: str | None = None,
    add: bool = False,
    networks: bool = False,
    root: Path = ROOT,
) -> list[str]:
    """Writes stale pages and schemas, or only names them; returns one line for each.

    Args:
        pages: Pages; by default ``README.md`` and all of ``docs`` and ``studies``.
        check: Whether to change nothing.
        results: Results of a preset to store first.
        config: With ``results``: the preset's configuration; several files with spaces between them.
        page: With ``results``: the preset's page, ``README.md`` of a folder below ``studies``.
        title: With ``results``: headline of the page; by default the preset's title.
        add: With ``results``: whether stored rows that are missing in these results stay, if their settings are
            unchanged.
        networks: With ``results``: whether networks are stored, too.
        root: The repository.

    Raises:
        UserError: Faulty arguments, stored studies or markers.
    """
    if results and check:
        raise UserError("", "--store and --check exclude each other")
    if config:
        preset_files(config, root)  # reports faults of the option first
    kept = _keep(results, config, page, title, add, networks, root) if results else None
    data = sorted(path.parent for path in (root / "studies").rglob(f"stored/{STORED}"))
    # Pages of stored studies, which are written as a whole.
    written = {folder.parent / "README.md": folder.parent.name for folder in data}
    everything = [root / "README.md", *sorted((root / "docs").rglob("*.md")), *sorted((root / "studies").rglob("*.md"))]
    wanted = [Path(page).resolve() for page in pages] or [*everything, *written]
    for path in wanted:
        if path.suffix != ".md" or not (path in written or path.is_file()):
            raise UserError(path, "no such page (*.md)")
    # The schemas of a repository are written with its pages.
    texts = schemas(root) if (root / "workflow").is_dir() else {}
    with opened(root, data) as studies:
        if results and kept:
            studies[kept.parent.name].draw(Path(results), kept.parent)
        for path in dict.fromkeys(wanted):
            about = studies[written[path]] if path in written else None
            old = path.read_text(encoding="utf-8") if path.is_file() else ""
            name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
            # Markers in a study's about.md are filled on its page.
            texts[path] = filled(about.page(".") if about else old, studies, root, name)
            if about:
                texts |= {about.folder / file: text for file, text in about.products().items()}
    changed = []
    for path, new in texts.items():
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if new != old:
            name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
            changed.append(f"{name}: {_first_difference(old, new)}")
            if not check:
                write_text(path, new)
    return changed


def _keep(
    results: str | Path, config: str | None, page: str | None, title: str | None, add: bool, networks: bool, root: Path
) -> Path:
    """Stores the text files of results beside the page; returns the page."""
    if not config or not page:
        raise UserError(
            "", "--store needs --preset and --page (studies/NAME/README.md, with its data in studies/NAME/stored)"
        )
    path = root / page
    if path.name != "README.md" or not path.is_relative_to(root / "studies"):
        raise UserError(f"--page {page}", "must be README.md of a folder below studies")
    preset = Preset.load(*preset_files(config, root))
    asked = {run: row_digest(preset, run) for run in preset.runs}
    about = {"preset": config, "title": title or preset.settings.title}
    store(results, path.parent / "stored", about, asked, add=add, networks=networks)
    return path


def _first_difference(old: str, new: str) -> str:
    for number, (before, after) in enumerate(zip(old.splitlines(), new.splitlines()), start=1):
        if before != after:
            return f"line {number} differs: {after.strip()[:100]}"
    return "lines were added or left out"


#: Relative difference below which two trainings count as the same one: those of one kind of processor agree to 1e-4.
_SAME = 1e-3
_SHOWN = {"fd": "FD", "fd_pixel": "FD in pixels", "is": "IS", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class RepeatedRows:
    """Means over trials of rows that both studies trained with equal settings.

    Attributes:
        moved: Pairs of means by metric, of each row whose distance differs between the studies.
        same: Number of rows with equal distances.
    """

    moved: Mapping[str, Mapping[str, tuple[float, float]]]
    same: int

    @classmethod
    def of(cls, first: Study, second: Study) -> RepeatedRows:
        """Compares the rows that two studies have in common.

        Raises:
            UserError: The studies have fewer than two rows in common that differ.
        """
        found = {}
        common = [run for run in first.measured.runs if run in second.measured.runs]
        alike = [run for run in common if _settings(first, run) == _settings(second, run) is not None]
        for run in alike:
            metrics = [
                name for name in first.measured.metrics if all(s.measured.has(run, name) for s in (first, second))
            ]
            u, v = ({m: s.measured.estimate(run, m).mean for m in metrics} for s in (first, second))
            if abs(math.log(v["fd"] / u["fd"])) > _SAME:
                found[run] = {metric: (u[metric], v[metric]) for metric in metrics}
        if len(found) < 2:
            raise UserError("", "the studies have fewer than two rows of equal settings that differ")
        return cls(found, len(alike) - len(found))

    def std(self, metric: str) -> float:
        """Relative standard deviation of one repeated row: that of the differences of two, by the root of two."""
        pairs = [values[metric] for values in self.moved.values() if metric in values]
        return math.sqrt(statistics.fmean(math.log(v / u) ** 2 for u, v in pairs) / 2)


def repeated_table(first: Study, second: Study, names: tuple[str, str]) -> str:
    """Table of the rows that differ: distance in both studies and its change; then the scatter of each metric."""
    found = RepeatedRows.of(first, second)
    change = {run: math.log(values["fd"][1] / values["fd"][0]) for run, values in found.moved.items()}
    lines = [f"| row | FD, {names[0]} | FD, {names[1]} | change |", "| --- | ---: | ---: | ---: |"]
    for run in sorted(change, key=lambda run: -abs(change[run])):
        u, v = found.moved[run]["fd"]
        moved = f"{100 * (v / u - 1):+.1f} %".replace("-", "−")
        lines.append(f"| {first.preset.runs[run].label} (`{run}`) | {u:.2f} | {v:.2f} | {moved} |")
    listed = ", ".join(f"{name} {100 * found.std(metric):.1f} %" for metric, name in _SHOWN.items())
    lines += ["", f"Standard deviation of one row, by {len(change)} rows: {listed}. {found.same} rows agree to 0.1 %."]
    return block(lines)


def _settings(study: Study, run: str) -> str | None:
    """Settings of a row's training and of its teacher without places; None if the stored row had others."""
    preset, row = study.preset, study.preset.runs[run]
    if row.method == "data" or study.facts["rows"].get(run) != row_digest(preset, run):
        return None
    specs = [preset.specs.teacher(row.teacher)] if row.teacher else []
    specs += [preset.specs.student(run)] if row.trained_here else []
    return json.dumps([specs, row.sampler], sort_keys=True, default=str).replace(preset.results, "")
