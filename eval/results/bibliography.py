"""Bibliography of published rows, methods and metrics (``results/published/references.bib``)."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sida.config.lookup import ROOT
from sida.errors import UserError
from sida.eval.results.published import PUBLISHED
from sida.files.text_files import parse_yaml

#: Key of this suite.
SUITE = "sida_repro"
_ENTRY = re.compile(r"^@\w+\{([\w-]+),(.*?)\}\n(?=\n|@|\Z)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"\b(\w+) = \{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OWN = re.compile(r"\s*\b(names|cited|metrics) = \{([^}]*)\},")
_CITATION = re.compile(r" *\(([A-Z][^()]*, (?:19|20)\d\d[a-z]?)\)")


@dataclass(frozen=True)
class BibEntry:
    r"""An entry of the bibliography.

    Attributes:
        key: Key for ``\cite``.
        bibtex: The entry without this suite's fields.
        names: Methods or metrics that the entry is about.
        cited: Citations in labels, e.g. ``Karras et al., 2022``.
        metrics: Keys of metrics in protocols that the entry is about.
    """

    key: str
    bibtex: str
    names: tuple[str, ...] = ()
    cited: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@functools.cache
def references() -> dict[str, BibEntry]:
    """All entries by key."""
    text = (PUBLISHED / "references.bib").read_text(encoding="utf-8")
    entries = {}
    for match in _ENTRY.finditer(text):
        fields = {name: tuple(value.split("; ")) for name, value in _OWN.findall(match[0])}
        entries[match[1]] = BibEntry(match[1], _OWN.sub("", match[0]).rstrip(), **fields)
    return {SUITE: _suite(), **entries}


def _suite() -> BibEntry:
    """The entry of this suite, of ``CITATION.cff``."""
    about = parse_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"), "CITATION.cff")
    fields = {
        "author": " and ".join(f"{{{author['name']}}}" for author in about["authors"]),
        "title": about["title"],
        "howpublished": f"Software, version {about['version']}",
        # A version that no release has yet has no year.
        **({"year": str(about["date-released"])[:4]} if "date-released" in about else {}),
        # The address of the repository has one place.
        **({"url": about["repository-code"]} if "repository-code" in about else {}),
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return BibEntry(SUITE, f"@misc{{{SUITE},\n{lines}\n}}")


def metric_keys(metrics: Iterable[str]) -> list[str]:
    """Keys of what a measurement of this suite cites: the suite, and the entries of its metrics."""
    names = set(metrics)
    return [SUITE, *(key for key, entry in references().items() if names & {*entry.metrics})]


def cited_label(label: str) -> tuple[str, BibEntry | None]:
    """The label of a row without its citation, and the entry that the citation or the method's name stands for.

    A citation without an entry stays in the label.

    Args:
        label: E.g. ``DDPM (Ho et al., 2020)`` or ``SiD, α=1.0``.
    """
    citation = _CITATION.search(label)
    if citation:
        matches = (entry for entry in references().values() if citation[1] in entry.cited)
        if (entry := next(matches, None)) is None:
            return label, None
        return label[: citation.start()] + label[citation.end() :], entry
    # Longest name first: 'GDD-I' is not 'GDD'.
    names = sorted(((name, entry) for entry in references().values() for name in entry.names), key=lambda n: -len(n[0]))
    return label, next((entry for name, entry in names if re.match(rf"{re.escape(name)}(?![\w-])", label)), None)


def bibliography_items(keys: Iterable[str]) -> str:
    """LaTeX of a list of references (``thebibliography``) in the order of the file; empty without keys."""
    cited_keys, items = set(keys), []
    for key, entry in references().items():
        if key in cited_keys:
            field = dict(_FIELD.findall(entry.bibtex))
            where = field.get("journal") or field.get("howpublished", "")
            year = f", {field['year']}" if "year" in field else ""
            authors = field["author"].replace(" and ", "; ").removesuffix(".")
            items.append(rf"\bibitem{{{key}}} {authors}. {field['title']}. {where}{year}.")
    return "\n".join([r"\begin{thebibliography}{99}", *items, r"\end{thebibliography}", ""]) if items else ""


def bibliography(keys: Iterable[str]) -> str:
    """BibTeX of some entries, in the order of the file.

    Raises:
        UserError: An unknown key.
    """
    cited_keys = set(keys)
    if unknown := sorted(cited_keys - references().keys()):
        raise UserError("results/published/references.bib", f"has no entry '{unknown[0]}'")
    return "\n\n".join(entry.bibtex for key, entry in references().items() if key in cited_keys) + "\n"
