"""Table of the papers' claims: verdicts of their counterparts in stored studies, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.claims.model import Claim, load_claims
from eval.tables.text import markdown
from workflow.docs.numbers import StudyNumbers
from workflow.docs.study import Study
from workflow.docs.words import block


def paper_claims(root: Path, studies: Mapping[str, Study]) -> str:
    """Table with one row for each claim about the papers.

    Args:
        root: The repository.
        studies: Stored studies by name.
    """
    found: dict[str, list[str]] = {}
    for study in studies.values():
        numbers = StudyNumbers(study)
        home = study.folder.parent.relative_to(root / "studies")
        places = {claim: f"#{one.experiment.id}" for one in study.answers for claim in one.experiment.claims}
        for claim in study.claims:
            link = f"[{claim.id}]({home}/README.md{places.get(claim.id, '')})"
            line = f"{link} **{numbers.word(claim.id)}**: {markdown(claim.statement)}"
            for theirs in filter(None, claim.counterpart.split(", ")):
                found.setdefault(theirs, []).append(line)
    rows = ["| claim of the papers | in the stored studies |", "|---|---|"]
    for claim in load_claims(root / "studies/papers/claims.yaml"):
        if claim.scope == "paper":
            answers = "<br>".join(found.get(claim.id, ())) or _why_none(claim)
            rows.append(f"| {claim.id}: {markdown(claim.statement)} | {answers} |")
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
