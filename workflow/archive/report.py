"""What a check of a results folder found."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sida.errors import UserError
from sida.unpickle.inert import printable

#: What content from a stranger can make of code that expects ours.
_UNUSABLE = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError)


@dataclasses.dataclass
class Report:
    """Faults and remarks, a line each, and what was compared.

    Attributes:
        folder: The results folder.
        faults: What is not as it should be.
        remarks: What could not be compared, or carries no hash.
        counts: Comparisons that were made, by what they are.
    """

    folder: Path
    faults: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)

    def fault(self, name: str, what: str) -> None:
        """Adds a fault of a file, by its path in the folder."""
        self.faults.append(f"{printable(name, 200)}: {printable(what, 400)}")

    def remark(self, name: str, what: str) -> None:
        """Adds a remark on a file."""
        self.remarks.append(f"{printable(name, 200)}: {printable(what, 400)}")

    @contextlib.contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Makes a fault of whatever a file's content does to the code inside."""
        try:
            yield
        except UserError as error:
            self.fault(name, str(error).removeprefix(f"{self.folder / name}: "))
        except OSError as error:
            self.fault(name, f"cannot be read ({error.strerror or error})")
        except _UNUSABLE as error:
            self.fault(name, f"its content is not what such a file holds ({type(error).__name__}); make it again")

    @property
    def summary(self) -> str:
        """One line: what was compared, and how many faults there are."""
        compared = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        faults = f"{len(self.faults):,} fault{'s' * (len(self.faults) != 1)}"
        return f"{printable(str(self.folder), 200)}: {compared or 'nothing to compare'}; {faults}"
