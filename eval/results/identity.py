"""Identity of a value: everything that decides a metric's value besides the images; the one test of comparability.

Tables (Δ, bold), added rows, comparisons, figures and claims ask :func:`comparable` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Fields that two comparable values have in common, with their names for people.
_COMPARED = {
    "settings": "metric",
    "n": "images per trial",
    "seed0": "first image seed",
    "classes": "classes of the images",
    "resolution": "resolution",
    "reference": "reference",
    "extractor": "feature network",
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Identity of a metric's value.

    The other metrics of a protocol, its name, its number of trials, and what lies in a cache are no part of it.

    Attributes:
        protocol: Name of the protocol, for people; not compared.
        settings: Kind of the metric with its settings, as text.
        n: Images of a trial.
        seed0: First image seed of trial 0, trial t then starts at ``seed0 + t·n``; None if unknown or without meaning,
            as for images of other groups. Unknown seeds are not compared.
        classes: Distribution of the classes: ``uniform``, ``data`` (those of the data set), or a digest of counts.
        resolution: Height and width of the images; 0 for any.
        reference: Digest of the real side; empty for a metric without one.
        extractor: Digest of the feature network with its options; empty for a metric without one.
        quoted: Whether a paper quotes the number from another paper, whose protocol is not known here.
    """

    protocol: str = field(compare=False)
    settings: str = ""
    n: int = 0
    seed0: int | None = None
    classes: str = ""
    resolution: int = 0
    reference: str = ""
    extractor: str = ""
    quoted: bool = False

    def __str__(self) -> str:
        if self.quoted:
            return "the protocol of another paper"
        return f"protocol '{self.protocol}' ({self.n:,} images)"


def comparable(a: Identity, b: Identity) -> str | None:
    """None if two values may be compared, else the reason why not: each differing field with both sides."""
    if a.quoted or b.quoted:
        return f"{a} against {b}"
    found = [
        f"{word}: {_short(mine)} != {_short(theirs)}"
        for name, word in _COMPARED.items()
        if (mine := getattr(a, name)) != (theirs := getattr(b, name))
        and not (name == "seed0" and None in (mine, theirs))
    ]
    return "; ".join(found) or None


def _short(value: str | int | None) -> str:
    """A field for people: numbers with separators, digests by their first digits."""
    if isinstance(value, int):
        return f"{value:,}"
    return (value[:12] if len(str(value)) == 64 else value) if value else "none"
