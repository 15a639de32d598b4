"""Queries of documentation markers, answered from a stored study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sida.errors import UserError, suggestion
from workflow.docs.answers import answer as answer_to
from workflow.docs.answers import word
from workflow.docs.effects import EFFECTS
from workflow.docs.numbers import NUMBERS_OF_STUDIES
from workflow.docs.study import Study


def answer(study: Study, words: Sequence[str]) -> str:
    """The text of one query: its name and arguments.

    Raises:
        UserError: Unknown query, run, metric or claim.
    """
    queries: dict[str, Callable[..., str]] = {
        "verdict": study.verdict, "verdicts": study.verdicts, "fact": study.fact, "table": study.table,
        "answer": partial(answer_to, study), "word": partial(word, study),
        **{name: partial(query, study) for name, query in (NUMBERS_OF_STUDIES | EFFECTS).items()},
    }  # fmt: skip
    if not words or words[0] not in queries:
        raise UserError(f"no query '{' '.join(words[:1])}'{suggestion(' '.join(words[:1]), queries)}")
    return queries[words[0]](*words[1:])
