"""Files of a results folder: listed without following links, each compared with its own hash; report of the check."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from eval.results.measurements import read_measurement
from sida.errors import UserError
from sida.files.atomic import read_hashed_json, read_jsonl, sha256_file
from sida.files.content_hash import is_hashed
from sida.files.tensors import verify_tensors
from sida.files.text_files import read_csv
from sida.sampling.intact import intact_png, intact_zip
from sida.unpickle.inert import printable

MANIFEST = "manifest.json"
#: May be missing in the manifest: what changes while a workflow runs, and what is made after it.
UNLISTED = re.compile(r"((.*/)?(state|logs)/.*|(.*/)?\.[^/]*(/.*)?|manifest\.json|ro-crate-metadata\.json)")
#: Files and folders of a results folder.
MOST_FILES = 500_000
#: Text that is read at once.
MOST_BYTES = 1 << 28
_TRIAL = re.compile(r"measurements/[^/]+/trial-\d+\.json")
_STATE = re.compile(r"(.*/)?state/state-\d+\.json")
#: JSON that says what was asked for, or what was downloaded.
_NO_HASH = re.compile(r"(specs|assets)/.*\.json|samples/.*/dataset\.json")
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


def list_files(report: Report) -> dict[str, int]:
    """Sizes of all ordinary files by their path in the folder, sorted; links and devices are faults.

    Raises:
        UserError: More files and folders than any results have.
    """
    found = {}
    for name, entry in sorted(_walk(report.folder, "")):
        if entry.is_symlink():
            report.fault(name, "is a link, which may lead anywhere; put the file itself in its place")
        elif entry.is_file(follow_symlinks=False):
            found[name] = entry.stat(follow_symlinks=False).st_size
        else:
            report.fault(name, "is no ordinary file; remove it")
    return found


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    # A list instead of recursion: folders can be nested deeper than Python calls.
    waiting, seen = [(str(folder), prefix)], 0
    while waiting:
        path, prefix = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_FILES:
                    raise UserError(f"{folder}: has more than {MOST_FILES:,} files; is it the right folder?")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    yield prefix + entry.name, entry


def check_own_hash(path: Path, name: str) -> bool:
    """Compares a file with the hash that it carries; False: it carries none.

    Args:
        path: The file.
        name: Its path in the results folder, which says what it is.

    Raises:
        UserError: It is damaged, or not what its name says.
    """
    suffix = path.suffix
    if suffix == ".safetensors":
        return verify_tensors(path)
    if name.startswith("samples/") and suffix in (".npz", ".zip", ".png"):
        if not (intact_png(path) if suffix == ".png" else intact_zip(path)):
            raise UserError(f"{path}: damaged: its checksums or sizes do not agree; delete it and sample again")
        return True
    if suffix not in (".json", ".jsonl", ".csv") or _NO_HASH.fullmatch(name):
        return False
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: is larger than any such file ({MOST_BYTES >> 20} MB)")
    if suffix == ".csv":
        return is_hashed(read_csv(path)[0])
    if suffix == ".jsonl":
        if not read_jsonl(path) and path.name == "train.jsonl" and path.with_name("network.safetensors").is_file():
            raise UserError(f"{path}: damaged: holds no line of the finished run beside it; train again")
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
        raise UserError(f"{path}: its tensors are missing; an earlier state is gone back to")
    if sha256_file(tensors) != sha256:
        raise UserError(f"{tensors}: is not the file that its state names; an earlier state is gone back to")


def check_manifest(report: Report, hashes: dict[str, str]) -> set[str]:
    """Compares files with the manifest; returns the names that it lists.

    Args:
        report: Gets the faults.
        hashes: SHA-256 of each file of the folder.
    """
    if MANIFEST not in hashes:
        report.remark(MANIFEST, "is not here: what is missing, and files without a hash of their own, go unnoticed")
        return set()
    listed: set[str] = set()
    with report.checking(MANIFEST):
        for name, entry in read_hashed_json(report.folder / MANIFEST)["files"].items():
            listed.add(name)
            parts = name.split("/")
            if name.startswith("/") or "\\" in name or not {"", ".", ".."}.isdisjoint(parts):
                report.fault(MANIFEST, f"lists '{name}', which is no path in this folder")
            elif name not in hashes:
                report.fault(name, "is missing; the manifest lists it")
            elif hashes[name] != entry["sha256"]:
                report.fault(name, "is not the file that the manifest lists: damaged, or made again since")
            else:
                report.counts["files as the manifest lists them"] += 1
        for name in hashes:
            if name not in listed and not UNLISTED.fullmatch(name):
                report.fault(name, "is unknown to the manifest; remove it, or make the manifest again (sida manifest)")
    return listed
