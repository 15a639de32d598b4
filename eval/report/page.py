"""The page of a study in its repository: Markdown with its answers, tables, figures and verdicts.

:mod:`eval.report.index` makes an HTML page of the same files. Like ``paper.pdf``, both pages only collect files of
other steps.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from eval.claims.model import verdict_counts
from eval.claims.write import read_verdicts
from eval.report.answers import Answer, answer_block, answers_table
from eval.report.paper import figure_caption, in_order
from eval.results.summary import load_measurements, measured_days, measurements_file
from eval.tables.files import load_table
from eval.tables.render import markdown, to_markdown
from sida.data.archive import read_rgb
from sida.files.atomic import atomic_path
from sida.files.text_files import read_text

_SIGNS = (
    "A positive effect supports the claim, except ratios, slopes and facts, which are plain values. Brackets "
    "give the interval that the claim's rule uses. Bold: other than predicted."
)
_HEADING = re.compile(r"^#+ ", re.MULTILINE)


def page_text(
    folder: Path,
    pictures: Sequence[Path],
    link: str,
    title: str = "",
    own: str | Path | None = None,
    answers: Sequence[Answer] = (),
    costs: Mapping[str, str] = MappingProxyType({}),
    evidence: str = "",
    about: str = "",
) -> str:
    """The page as Markdown.

    Args:
        folder: Folder with ``tables/*.json``, ``claims.md`` and ``measurements.csv``; each may be missing.
        pictures: Figures in their order.
        link: Address of the pictures' folder in the page.
        title: Headline.
        own: Folder of the preset, see :func:`write_page`.
        answers: Answers to the experiments of the preset.
        costs: Cost of an experiment at the paper's scale, by its id.
        evidence: Address of the verdicts with their evidence.
        about: Text before the questions (Markdown).
    """
    tables = in_order(folder / "tables", ".json")
    parts = [f"# {markdown(title) or f'Results of the preset {folder.name}'}", _origin(folder) + _verdicts(folder)]
    parts += [about.strip()] if about.strip() else []
    if answers:
        parts += ["## Questions and answers", _SIGNS, answers_table(answers)]
        blocks = [_answer(answer, pictures, link, costs.get(answer.experiment.id, "")) for answer in answers]
        parts += _folded("Each question with its prediction, claims and limits", blocks)
    if tables:
        blocks = [f"### Table {path.stem}\n\n{to_markdown(load_table(path)).strip()}" for path in tables]
        parts += ["## Tables", *_folded(f"{len(blocks)} tables", blocks, _FEW)]
    if pictures:
        blocks = [_figure(picture, f"{link}/{picture.name}", own) for picture in pictures]
        parts += ["## Figures", *_folded(f"{len(blocks)} figures", blocks, _FEW)]
    claims = folder / "claims.md"
    if claims.is_file():
        text, _, _ = read_text(claims).strip().partition("\n## Evidence\n")
        heading, *blocks = _HEADING.sub(lambda found: "#" + found.group(), text).strip().split("\n\n")
        parts += [heading, *_folded("Each claim and its verdict", blocks)]
        parts += [f"The evidence of each verdict, with the rules: [claims.md]({evidence})."] if evidence else []
    return "\n\n".join(parts) + "\n"


#: Number of tables or figures from which a page folds them.
_FEW = 4


def _folded(summary: str, blocks: Sequence[str], least: int = 0) -> list[str]:
    """Parts of a page that a reader opens if there are at least so many."""
    if len(blocks) < least:
        return list(blocks)
    return [f'<details markdown="1">\n<summary>{summary}</summary>', *blocks, "</details>"]


def _origin(folder: Path) -> str:
    """Origin of the page (a program) and of its numbers: days, devices and version of the code."""
    made = f"Written by `sida-eval` from the results of `{folder.name}`; not edited by hand."
    path = measurements_file(folder)
    if not path.is_file() or not (rows := load_measurements(path).rows):
        return made
    facts = [
        f"{len({row.run for row in rows})} generators measured",
        measured_days(rows),
        "; ".join(sorted({row.device for row in rows})),
        "code " + ", ".join(sorted({row.code_version for row in rows})),
    ]
    return f"{made} {', '.join(facts)}."


def _verdicts(folder: Path) -> str:
    """Numbers of claims by verdict; empty without decided claims."""
    path = folder / "claims.json"
    if not path.is_file():
        return ""
    return f"\nClaims: {verdict_counts(claim['verdict'] for claim in read_verdicts(path)['claims'])}."


def _answer(answer: Answer, pictures: Sequence[Path], link: str, cost: str) -> str:
    names = {picture.stem: picture.name for picture in pictures}
    shown = [f"{link}/{names[name]}" for name in answer.experiment.figures[:1] if name in names]
    return f"### {answer.experiment.id}\n\n{answer_block(answer, shown[0] if shown else '', '#', cost)}"


def _figure(picture: Path, link: str, own: str | Path | None) -> str:
    caption = markdown(figure_caption(picture, own))
    return f"### Figure {picture.stem}\n\n![{picture.stem}]({link})\n\n{caption}"


def reduced(source: Path, target: Path) -> Path:
    """Writes a picture with 256 colours; returns its path."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(reduced_png(source))
    return target


def reduced_png(source: Path) -> bytes:
    """A PNG file of the same size in 256 colours, which is much smaller."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(read_rgb(source)).quantize(256, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
