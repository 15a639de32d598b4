"""Annotations of settings: ranges, known names, patterns, and classes of inner mappings.

A class of settings uses them as ``lr: Positive`` or ``t_max: Annotated[float, Range(above=0, most=1000)]``.
:mod:`sida.config.mapping` checks values by them, :mod:`workflow.docs.schema` documents them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

#: Networks and optimisers compute in float32.
_MOST = 3.4e38


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a finite number, as part of its type: ``Annotated[float, Range(above=0)]``."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    @property
    def words(self) -> str:
        """The bounds in words."""
        if self.least is not None and self.most is not None:
            return f"between {self.least} and {self.most}"
        if (self.least, self.below) == (0, None):
            return "0 or more"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)

    def fault(self, value: float) -> str | None:
        """Fault of a number, or None."""
        if not math.isfinite(value):
            return "must be a finite number"
        if isinstance(value, float) and abs(value) >= _MOST:
            return f"must be below {_MOST:.1e}, the largest number of 32 bits"
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        high = (self.most is None or value <= self.most) and (self.below is None or value < self.below)
        if low and high:
            return None
        return (
            "must be 0 or 1"
            if isinstance(value, int) and (self.least, self.most) == (0, 1)
            else f"must be {self.words}"
        )


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A choice of known names, as part of a type.

    Attributes:
        names: Function that lists the names, called whenever a value is checked.
        or_object: Whether ``module:object`` is accepted too.
    """

    names: Callable[[], Iterable[str]]
    or_object: bool = False

    @property
    def words(self) -> str:
        """The names."""
        return f"one of {', '.join(self.names())}{' or module:object' if self.or_object else ''}"

    def fault(self, value: str) -> str | None:
        """Fault of a text, or None."""
        known = value in self.names() or (self.or_object and names_object(value))
        return None if known else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A regular expression that a text must match, as part of a type, and its description in words."""

    expression: str
    words: str

    def fault(self, value: str) -> str | None:
        """Fault of a text, or None."""
        return None if re.fullmatch(self.expression, value) else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class CheckedAs:
    """A mapping checked by a dataclass, but kept as a mapping, as part of a type."""

    cls: type


@dataclasses.dataclass(frozen=True)
class Variants:
    """Choice of a dataclass by a key of the mapping, as part of a type, which is their base class.

    Attributes:
        key: The key.
        classes: Function that lists the classes by the key's value.
        pick: ``pick(value, where)`` returns the class for a value, also for ``module:object``; raises UserError for
            unknown values.
    """

    key: str
    classes: Callable[[], Mapping[str, type]]
    pick: Callable[[str, str], type]


def names_object(text: str) -> bool:
    """Whether a text has the form ``module:object``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), name])


def names_file_object(text: str) -> bool:
    """Whether a text has the form ``FILE.py:object``."""
    file, colon, name = text.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
#: Integers from 1 (Count), and from 0 (Natural).
Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
#: Id of a run, teacher or data set, which becomes part of file names.
Name = Annotated[
    str, Pattern("[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}", "letters, digits and ._- after a letter or digit, 100 at most")
]
#: Device of torch.
Device = Annotated[str, Pattern(r"(cpu|cuda(:[0-9]+)?)", "cpu, cuda, or cuda:N (one GPU, counted from 0)")]
#: ``module:object``, imported on use.
ObjectName = Annotated[str, Pattern(r"[^\W\d][\w.]*:[^\W\d]\w*", "a text 'module:object'")]
