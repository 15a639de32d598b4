"""Bibliography of published rows, methods and metrics (``results/published/references.bib``)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sida.config.resources import PUBLISHED
from sida.errors import UserError

_ENTRY = re.compile(r"^@\w+\{([\w-]+),(.*?)\}\n(?=\n|@|\Z)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"\b(\w+) = \{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OWN = re.compile(r"\s*\b(names|cited) = \{([^}]*)\},")
_CITATION = re.compile(r" *\(([A-Z][^()]*, (?:19|20)\d\d[a-z]?)\)")


@dataclass(frozen=True)
class BibEntry:
    r"""An entry of the bibliography.

    Attributes:
        key: Key for ``\cite``.
        bibtex: The entry without this suite's fields.
        names: Methods or metrics that the entry is about.
        cited: Citations in labels, e.g. ``Karras et al., 2022``.
    """

    key: str
    bibtex: str
    names: tuple[str, ...]
    cited: tuple[str, ...]


@functools.cache
def references() -> dict[str, BibEntry]:
    """All entries by key."""
    text = (PUBLISHED / "references.bib").read_text(encoding="utf-8")
    entries = {}
    for match in _ENTRY.finditer(text):
        own = {name: tuple(value.split("; ")) for name, value in _OWN.findall(match[0])}
        entries[match[1]] = BibEntry(
            match[1], _OWN.sub("", match[0]).rstrip(), own.get("names", ()), own.get("cited", ())
        )
    return entries


def cited_label(label: str) -> tuple[str, BibEntry | None]:
    """The label of a row without its citation, and the entry that the citation or the method's name stands for.

    Args:
        label: E.g. ``DDPM (Ho et al., 2020)`` or ``SiD, α=1.0``.
    """
    found = _CITATION.search(label)
    if found:
        matches = (entry for entry in references().values() if found[1] in entry.cited)
        return label[: found.start()] + label[found.end() :], next(matches, None)
    # Longest name first: 'GDD-I' is not 'GDD'.
    names = sorted(((name, entry) for entry in references().values() for name in entry.names), key=lambda n: -len(n[0]))
    return label, next((entry for name, entry in names if re.match(rf"{re.escape(name)}(?![\w-])", label)), None)


def bibliography_items(keys: Iterable[str]) -> str:
    """LaTeX of a list of references (``thebibliography``) in the order of the file; empty without keys."""
    wanted, items = set(keys), []
    for key, entry in references().items():
        if key in wanted:
            field = dict(_FIELD.findall(entry.bibtex))
            where = field.get("journal") or field.get("howpublished", "")
            authors = field["author"].replace(" and ", "; ").removesuffix(".")
            items.append(rf"\bibitem{{{key}}} {authors}. {field['title']}. {where}, {field['year']}.")
    return "\n".join([r"\begin{thebibliography}{99}", *items, r"\end{thebibliography}", ""]) if items else ""


def bibliography(keys: Iterable[str]) -> str:
    """BibTeX of some entries, in the order of the file.

    Raises:
        UserError: An unknown key.
    """
    wanted = set(keys)
    if unknown := sorted(wanted - references().keys()):
        raise UserError(f"results/published/references.bib: has no entry '{unknown[0]}'")
    return "\n\n".join(entry.bibtex for key, entry in references().items() if key in wanted) + "\n"
