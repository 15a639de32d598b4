"""Faults, remarks and counts of comparisons of a results folder."""

import contextlib
import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sida.errors import UserError, one_line
from sida.workflow.archive.manifest import Manifest

#: Names of trials, with their run.
TRIAL = re.compile(r"measurements/([^/]+)/trial-\d+\.json")
#: Errors of code that reads content of another form.
_UNUSABLE = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError)


@dataclasses.dataclass
class Report:
    """Result of a check: faults and remarks, one line each, and counts of comparisons.

    Attributes:
        folder: The results folder.
        faults: Faults that were found.
        remarks: Files that could not be compared, or have no hash.
        counts: Numbers of comparisons, by description.
        hashes: SHA-256 of each ordinary file that can be read, by name.
        manifest: The manifest; None without an intact one.
    """

    folder: Path
    faults: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    manifest: Manifest | None = None

    def fault(self, name: str, text: str) -> None:
        """Adds a fault of a file, by its path in the folder."""
        self.faults.append(f"{one_line(name, 200)}: {one_line(text, 400)}")

    def remark(self, name: str, text: str) -> None:
        """Adds a remark on a file."""
        self.remarks.append(f"{one_line(name, 200)}: {one_line(text, 400)}")

    @functools.cached_property
    def trials(self) -> dict[str, str]:
        """Name of the first trial of each run."""
        return {match[1]: name for name in reversed(self.hashes) if (match := TRIAL.fullmatch(name))}

    @contextlib.contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Turns an error inside the context into a fault of the file, and ends the block."""
        try:
            yield
        except UserError as error:
            self.fault(name, str(error).removeprefix(f"{self.folder / name}: "))
        except OSError as error:
            self.fault(name, f"cannot be read ({error.strerror or error})")
        except _UNUSABLE as error:
            self.fault(name, f"is damaged, or a file of another kind ({type(error).__name__}); make it again")

    @property
    def summary(self) -> str:
        """Counts of comparisons and of faults in one line."""
        counts = ", ".join(f"{count:,} {description}" for description, count in self.counts.items())
        faults = f"{len(self.faults):,} fault{'s' * (len(self.faults) != 1)}"
        return f"{one_line(str(self.folder), 200)}: {counts or 'nothing to compare'}; {faults}"


def ignoring_faults() -> contextlib.AbstractContextManager[None]:
    """A block that the errors of :meth:`Report.checking` end without a fault; another check reports them."""
    return contextlib.suppress(UserError, OSError, *_UNUSABLE)
