"""Table of the papers' claims: verdicts of their counterparts in stored studies, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.claims.model import Claim, load_claims
from eval.tables.text import markdown
from workflow.docs.numbers import StudyNumbers
from workflow.docs.study import Study
from workflow.docs.words import block

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
    operands = [one for part in claim.parts for one in (part.a, part.b) if one is not None]
    if all(part.quantity == "nfe" for part in claim.parts) or not any(one.run or one.where for one in operands):
        return "Counted, not measured."
    if any(one.published for one in operands):
        return "Compares with printed numbers of networks that no stored study has."
    return "No stored study has rows for it."
