"""Numbers between markers: ``<!--= miniature seeds fd t30-sida -->5.43 ± 0.15<!--/-->``.

What a marker says is computed, and what stands between the markers is replaced by it. Its words: the name of a
stored study and a query to it (:mod:`eval.report.docs.study`), or one of :data:`~eval.report.docs.counts.COUNTS`
with arguments.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from eval.report.docs.counts import COUNTS
from eval.report.docs.study import Study
from sida.errors import UserError, suggestion

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
            return studies[first].query(words[1:])
    except (UserError, TypeError) as error:
        raise UserError(f"{where}: <!--= {' '.join(words)} -->: {error}") from None
    raise UserError(
        f"{where}: <!--= {' '.join(words)} -->: no count and no stored study (docs/NAME/data) "
        f"of this name{suggestion(first, [*COUNTS, *studies])}"
    )
