"""Checks files of a results folder: lists them without following links and compares each with its own hash."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from eval.results.measurements import read_measurement
from sida.data.archive import is_intact_zip
from sida.errors import UserError, one_line
from sida.files.atomic import read_hashed_json, read_jsonl, sha256_file
from sida.files.content_hash import is_hashed
from sida.files.ordinary import walk_below
from sida.files.tensors import verify_tensors
from sida.files.text_files import read_csv
from sida.sampling.store import intact_png

MANIFEST = "manifest.json"
#: Files that may be missing in the manifest: they change while a workflow runs, or are made after the manifest.
UNLISTED = re.compile(r"((.*/)?(state|logs)/.*|(.*/)?\.[^/]*(/.*)?|manifest\.json)")
#: Largest number of files and folders in a results folder.
MOST_FILES = 500_000
#: Largest text file that is read at once, in bytes.
MOST_BYTES = 1 << 28
_TRIAL = re.compile(r"measurements/[^/]+/trial-\d+\.json")
_STATE = re.compile(r"(.*/)?state/state-\d+\.json")
#: JSON without a hash: specs, and records of downloads.
_NO_HASH = re.compile(r"(specs|assets)/.*\.json|samples/.*/dataset\.json")
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
    """

    folder: Path
    faults: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)

    def fault(self, name: str, what: str) -> None:
        """Adds a fault of a file, by its path in the folder."""
        self.faults.append(f"{one_line(name, 200)}: {one_line(what, 400)}")

    def remark(self, name: str, what: str) -> None:
        """Adds a remark on a file."""
        self.remarks.append(f"{one_line(name, 200)}: {one_line(what, 400)}")

    @contextlib.contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Turns errors inside the context into a fault of the file."""
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
        """Counts of comparisons and of faults in one line."""
        compared = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        faults = f"{len(self.faults):,} fault{'s' * (len(self.faults) != 1)}"
        return f"{one_line(str(self.folder), 200)}: {compared or 'nothing to compare'}; {faults}"


def list_files(report: Report) -> dict[str, int]:
    """Sizes of all ordinary files by their path in the folder, sorted; links and devices are faults.

    Raises:
        UserError: There are more files and folders than :data:`MOST_FILES`, or a folder cannot be read.
    """
    found = {}
    for name, entry in sorted(walk_below(report.folder, MOST_FILES)):
        if entry.is_symlink():
            report.fault(name, "is a link, which may lead anywhere; put the file itself in its place")
        elif entry.is_file(follow_symlinks=False):
            found[name] = entry.stat(follow_symlinks=False).st_size
        else:
            report.fault(name, "is no ordinary file; remove it")
    return found


def check_own_hash(path: Path, name: str) -> bool:
    """Compares a file with the hash in it; returns False for a file without a hash.

    Args:
        path: The file.
        name: Path of the file in the results folder, which determines its kind.

    Raises:
        UserError: The file is damaged or of another kind.
    """
    suffix = path.suffix
    if suffix == ".safetensors":
        return verify_tensors(path)
    if name.startswith("samples/") and suffix in (".npz", ".zip", ".png"):
        if not (intact_png(path) if suffix == ".png" else is_intact_zip(path)):
            raise UserError(path, "damaged: its checksums or sizes do not agree", "delete it and sample again")
        return True
    if name.endswith(".csv.gz"):
        suffix = ".csv"
    if name.endswith(".jsonl.gz"):
        return bool(read_jsonl(path))
    if suffix not in (".json", ".jsonl", ".csv") or _NO_HASH.fullmatch(name):
        return False
    if path.stat().st_size > MOST_BYTES:
        raise UserError(path, f"is larger than any such file ({MOST_BYTES >> 20} MB)")
    if suffix == ".csv":
        return is_hashed(read_csv(path)[0])
    if suffix == ".jsonl":
        if not read_jsonl(path) and path.name == "train.jsonl" and path.with_name("network.safetensors").is_file():
            raise UserError(path, "damaged: has no line of the finished run beside it", "train again")
        with open(path, encoding="utf-8") as stream:
            return any(map(_line_is_hashed, stream))
    record = read_measurement(path) if _TRIAL.fullmatch(name) else read_hashed_json(path)
    if _STATE.fullmatch(name):
        _check_state(path, record["tensors_sha256"])
    with open(path, encoding="utf-8") as stream:
        return is_hashed(json.load(stream))


def _line_is_hashed(line: str) -> bool:
    try:
        return is_hashed(json.loads(line))
    except ValueError:
        return False


def _check_state(path: Path, sha256: str) -> None:
    tensors = path.with_suffix(".safetensors")
    if tensors.is_symlink() or not tensors.is_file():
        raise UserError(path, "its tensors are missing", "training resumes from an earlier state")
    if sha256_file(tensors) != sha256:
        raise UserError(tensors, "is not the file that its state names", "training resumes from an earlier state")


def check_manifest(report: Report, hashes: dict[str, str]) -> set[str]:
    """Compares files with the manifest; returns the names that the manifest lists.

    Args:
        report: Report for the faults.
        hashes: SHA-256 of each file of the folder.
    """
    if MANIFEST not in hashes:
        report.remark(MANIFEST, "is missing: missing files, and damage in files without a hash, are not noticed")
        return set()
    listed: set[str] = set()
    with report.checking(MANIFEST):
        for name, entry in read_hashed_json(report.folder / MANIFEST)["files"].items():
            listed.add(name)
            if name not in hashes:
                report.fault(name, "is missing; the manifest lists it")
            elif hashes[name] != entry["sha256"]:
                report.fault(name, "is not the file that the manifest lists: damaged, or made again since")
            else:
                report.counts["files as the manifest lists them"] += 1
        for name in hashes:
            if name not in listed and not UNLISTED.fullmatch(name):
                report.fault(name, "is unknown to the manifest; remove it, or make the manifest again (sida manifest)")
    return listed
