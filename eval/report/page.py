"""One Markdown page with every table, figure and verdict of a preset, for a repository, a wiki or a pull request.

:mod:`eval.report.index` makes an HTML page of the same files. Like ``paper.pdf``, both pages only collect files of
other steps. Pictures are copied into a folder beside the page, reduced to 256 colours, so that the page may be
committed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from eval.claims.experiments import Experiment
from eval.claims.model import verdict_counts
from eval.claims.read import read_verdicts
from eval.report.answers import Answer, answer_block, answers_of, answers_table
from eval.report.paper import figure_caption, in_order
from eval.results.summary import Measurements, load_measurements, measured_days
from eval.tables.files import load_table
from eval.tables.text import markdown, to_markdown
from sida.data.pictures import open_picture
from sida.errors import UserError
from sida.files.atomic import atomic_path, write_text
from sida.files.text_files import read_text

_SIGNS = (
    "A positive effect supports the claim, except ratios, slopes and barriers, which are plain values. Brackets "
    "give the interval that the claim's rule uses. Bold: other than predicted."
)
_HEADING = re.compile(r"^#+ ", re.MULTILINE)


def write_page(
    results: str | Path,
    out: str | Path,
    title: str = "",
    own: str | Path | None = None,
    experiments: Sequence[Experiment] = (),
) -> list[Path]:
    """Writes the page and its pictures.

    Args:
        results: Folder of a preset.
        out: The page, ``NAME.md``; pictures go to ``NAME/`` beside it.
        title: Headline.
        own: Folder of the preset; layouts in its ``figures`` (titles, captions) take precedence over those of
            ``config``.
        experiments: Experiments, whose answers come first on the page.

    Returns:
        The page and its pictures.

    Raises:
        UserError: There are neither tables nor figures, or ``out`` does not end in ``.md``.
    """
    folder, out = Path(results), Path(out)
    if out.suffix != ".md":
        raise UserError(f"--out {out}: must end in .html, or in .md (pictures go into a folder beside it)")
    tables, figures = in_order(folder / "tables", ".json"), in_order(folder / "figures", ".png")
    if not tables and not figures:
        raise UserError(f"{folder}: no tables and no figures there yet; run the workflow first")
    pictures = out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    copies = [reduced(figure, pictures / figure.name) for figure in figures]
    answers = _answers(folder, experiments)
    write_text(out, page_text(folder, copies, pictures.name, title, own, answers))
    return [out, *copies]


def _answers(folder: Path, experiments: Sequence[Experiment]) -> list[Answer]:
    path = folder / "measurements.csv"
    measured = load_measurements(path) if path.is_file() else Measurements([], "no measurements")
    return answers_of(experiments, folder / "claims.json", measured) if experiments else []


def page_text(
    folder: Path,
    pictures: Sequence[Path],
    link: str,
    title: str = "",
    own: str | Path | None = None,
    answers: Sequence[Answer] = (),
    costs: Mapping[str, str] = MappingProxyType({}),
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
    """
    tables = in_order(folder / "tables", ".json")
    parts = [f"# {markdown(title) or f'Results of the preset {folder.name}'}", _origin(folder) + _verdicts(folder)]
    if answers:
        parts += ["## Questions and answers", _SIGNS, answers_table(answers)]
        parts += [_answer(answer, pictures, link, costs.get(answer.experiment.id, "")) for answer in answers]
    if tables:
        parts += [
            "## Tables",
            *(f"### Table {path.stem}\n\n{to_markdown(load_table(path)).strip()}" for path in tables),
        ]
    if pictures:
        parts.append("## Figures")
        parts += [_figure(picture, f"{link}/{picture.name}", own) for picture in pictures]
    claims = folder / "claims.md"
    if claims.is_file():
        parts.append(_HEADING.sub(lambda found: "#" + found.group(), read_text(claims).strip()))
    return "\n\n".join(parts) + "\n"


def _origin(folder: Path) -> str:
    """Origin of the page (a program) and of its numbers: days, devices and version of the code."""
    made = f"Written by `sida-eval` from the results of `{folder.name}`; not edited by hand."
    path = folder / "measurements.csv"
    if not path.is_file():
        return made
    rows = load_measurements(path).rows
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
    picture = open_picture(source.read_bytes(), str(source)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
