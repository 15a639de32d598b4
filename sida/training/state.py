"""Kept states of a run: two intact generations of each configuration, one process at a time, never mixed.

The hash of a state reveals damage, but a manipulated state can have a right hash. So the values of its record
(everything but its tensors) that the loop, the divergence rules and the results read are checked before a run resumes.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from sida.errors import UserError, say
from sida.files.atomic import sha256_file, try_lock, wait_for_lock, write_text
from sida.files.content_hash import check_hash, with_hash
from sida.files.tensors import read_tensors, write_tensors
from sida.files.text_files import parse_json
from sida.training.logs import GROUPS, TICK_COUNTS

STATE_FORMAT = "sida-state-1"
KEPT_STATES = 2
_FIELDS = {"format": str, "digest": str, "tensors_sha256": str, "record": dict}
_NAME = re.compile(r"state-(\d{6}|[1-9]\d{6,})\.json", re.ASCII)


class KeptState(NamedTuple):
    """A state as it was saved.

    Attributes:
        record: Plain JSON values: counters, log records, best value.
        tensors: Named tensors on the CPU.
        path: Its path, without suffix.
    """

    record: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    path: Path


class StateStore:
    """The ``state/`` folder of a run; used as a context manager, which holds the folder's lock.

        with StateStore(folder, digest) as store:
            kept = store.load()

    A state is a tensor file and, written after it, a JSON file that holds its SHA-256, the digest of its configuration
    and the hash of its own content: a process killed at any moment leaves the previous state intact. States of several
    configurations lie side by side; a configuration resumes from its own states. A state is removed only when its
    own configuration has two newer ones. Another process that works on the same run is waited for.

    Args:
        folder: Created when missing.
        digest: Digest of everything that decides the run's result.
        set_aside: Start anew although the folder holds an unfinished run that this configuration cannot resume;
            that run's states stay.
        sound: Whether a run can resume from a record; a state with another record is damaged. None accepts all.
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        set_aside: bool = False,
        sound: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.folder, self.digest, self.set_aside, self._sound = Path(folder), digest, set_aside, sound
        self._lock: int | None = None
        # Numbers of this configuration's states, oldest first: all, and those known to be intact.
        self._own: list[int] = []
        self._intact: list[int] = []

    def __enter__(self) -> StateStore:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(self.folder, f"cannot be written ({error.strerror})", "choose another --out") from None
        try:
            self._wait()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def _wait(self) -> None:
        assert self._lock is not None
        try:
            if not try_lock(self._lock):
                say(f"{self.folder}: another process is at work on this run; waiting for it to finish")
                wait_for_lock(self._lock)
        except OSError as error:
            raise UserError(
                self.folder, f"cannot be locked ({error.strerror})", "use a file system with locks"
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            # Closing releases the lock; so does the end of the process, however it comes.
            os.close(self._lock)
            self._lock = None

    def load(self) -> KeptState | None:
        """The newest intact state of this configuration, or None; reports a state that is not simply the newest.

        Raises:
            UserError: A state cannot be read for now, or (without ``set_aside``) the run would start anew beside
                an unfinished one; nothing was changed.
        """
        headers = {number: self._header(number) for number in self._numbers()}
        self._own = [number for number, header in headers.items() if header and header["digest"] == self.digest]
        damaged = []
        for number, header in reversed(headers.items()):
            if header is None:
                damaged.append(number)
            elif header["digest"] == self.digest:
                tensors = self._tensors(number, header["tensors_sha256"])
                if tensors is not None:
                    for other in damaged:
                        say(f"{self._path(other)}: this state is damaged; going back to the one before it")
                    if any(other and other["digest"] != self.digest for n, other in headers.items() if n > number):
                        say(f"{self._path(number)}: resuming from this kept state, whose settings are back")
                    self._intact = [number]
                    return KeptState(header["record"], tensors, self._path(number))
                damaged.append(number)
        if headers:
            self._start_anew(headers, damaged)
        return None

    def _start_anew(self, headers: Mapping[int, dict[str, Any] | None], damaged: list[int]) -> None:
        """Reports why the run starts anew; without permission, refuses to leave an unfinished run behind."""
        newest = max(headers)
        header = headers[newest]
        if damaged:
            lost, why = True, f"the kept state {self._path(max(damaged))} is damaged, and there is none before it"
        else:
            assert header is not None
            lost, nimg = not header["record"]["finished"], header["record"].get("nimg", 0)
            kind = f"an unfinished run (image {nimg:,})" if lost else "a finished run"
            why = f"{self._path(newest)} is the state of {kind} of another configuration or other inputs"
        if lost and not self.set_aside:
            raise UserError(
                "",
                why,
                "go back to its settings to resume it, choose another --out, or start anew beside it "
                "with --set-aside (it is kept)",
            )
        say(f"{why}; it is kept, and this run starts anew")

    def save(self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes a new state, then removes all states of this configuration except the newest two intact ones.

        Raises:
            UserError: The disk is full or the folder is gone; earlier states are untouched.
        """
        try:
            self._save(record, tensors)
        except OSError as error:
            raise UserError(
                self.folder, f"the state cannot be written ({error})", "make room, then run the same command again"
            ) from None

    def _save(self, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        number = max(self._numbers(), default=0) + 1
        path = self._path(number)
        write_tensors(path.with_suffix(".safetensors"), tensors)
        header = {
            "format": STATE_FORMAT,
            "digest": self.digest,
            "tensors_sha256": sha256_file(path.with_suffix(".safetensors")),
            "record": dict(record),
        }
        # On one line: an indented one is made by Python code, which would slow down the training that runs meanwhile.
        write_text(path.with_suffix(".json"), json.dumps(with_hash(header), sort_keys=True) + "\n")
        self._intact = [*self._intact, number][-KEPT_STATES:]
        for old in set(self._own) - set(self._intact):
            # The header goes last: a kill in between leaves a state that is known to be ours and removed next time.
            for suffix in (".safetensors", ".json"):
                self._path(old).with_suffix(suffix).unlink(missing_ok=True)
        self._own = list(self._intact)

    def _path(self, number: int) -> Path:
        return self.folder / f"state-{number:06d}"

    def _numbers(self) -> list[int]:
        """Numbers of the states that were completed, oldest first."""
        try:
            # Not glob, which takes a folder that cannot be read for an empty one.
            found = [_NAME.fullmatch(name) for name in os.listdir(self.folder)]
        except OSError as error:
            raise unreadable(self.folder, error) from None
        return sorted(int(name[1]) for name in found if name)

    def _header(self, number: int) -> dict[str, Any] | None:
        """A state's JSON, or None if it is damaged."""
        path = self._path(number).with_suffix(".json")
        try:
            if not _ordinary(path):
                return None
            header = parse_json(path.read_bytes(), str(path))
            header = check_hash(header, path) if isinstance(header, dict) else {}
        except OSError as error:
            raise unreadable(path, error) from None
        except UserError:
            return None
        if (
            not all(isinstance(header.get(key), kind) for key, kind in _FIELDS.items())
            or header["format"] != STATE_FORMAT
        ):
            return None
        return header if self._sound is None or self._sound(header["record"]) else None

    def _tensors(self, number: int, sha256: str) -> dict[str, torch.Tensor] | None:
        """A state's tensors, or None if they are damaged or gone."""
        path = self._path(number).with_suffix(".safetensors")
        if not os.path.lexists(path):
            return None
        try:
            if not _ordinary(path) or sha256_file(path) != sha256:
                return None
            return read_tensors(path)[0]
        except OSError as error:
            raise unreadable(path, error) from None


def _ordinary(path: Path) -> bool:
    """Whether a path is a regular file: reading a pipe would wait."""
    return stat.S_ISREG(os.stat(path).st_mode)


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a state that may well be intact but cannot be read now."""
    return UserError(
        path, f"cannot be read ({error.strerror or error})", "nothing was changed: fix that, then run this again"
    )


def other_tensors(path: Path) -> UserError:
    """The error for a state whose tensors are not those that its run keeps."""
    return UserError(
        path,
        "was written by a version of the program that keeps other tensors",
        "go on with that version, or choose another --out",
    )


def is_record(record: Any) -> bool:
    """Whether a record has all values that :class:`sida.training.loop.TrainingLoop` stores, with the right types."""
    if not (isinstance(record, dict) and type(record.get("finished")) is bool and _count(record.get("nimg"))):
        return False
    done, evaluations = record.get("done"), record.get("evaluations")
    return (
        _finite(record)
        and isinstance(done, dict)
        and all(key in done and _optional(_count, done[key]) for key in ("tick", "evaluation", "snapshot"))
        and _list(_tick, record.get("train"))
        and _list(_evaluation, evaluations)
        and _best(record.get("best"), evaluations, record["finished"])
        and _meter(record.get("meter"), begun=done["tick"] != record["nimg"])
        and (not record["finished"] or _published(record.get("metadata")))
    )


def _finite(record: dict[str, Any]) -> bool:
    """Whether all numbers are finite: Python reads 1e999 as an infinity, which JSON cannot represent."""
    try:
        json.dumps(record, allow_nan=False)
    except ValueError:
        return False
    return True


def _number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or (type(value) is int and value.bit_length() < 64)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _optional(kind: Callable[[Any], bool], value: Any) -> bool:
    return value is None or kind(value)


def _list(kind: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(kind, value))


def _by_name(kind: Callable[[Any], bool], value: Any) -> bool:
    """Whether a value is a mapping with printable names."""
    return isinstance(value, dict) and all(name.isprintable() and kind(item) for name, item in value.items())


def _tick(value: Any) -> bool:
    """Whether a value is a line of ``train.jsonl``."""
    return (
        isinstance(value, dict)
        and _count(value.get("nimg"))
        and all(_by_name(lambda item: _optional(_number, item), value.get(group)) for group in GROUPS)
        and all(_count(value.get(name)) for name in TICK_COUNTS if name != "images")
    )


def _evaluation(value: Any) -> bool:
    """Whether a value is a line of ``evaluations.jsonl``; a selection value that is not a number is null."""
    return (
        isinstance(value, dict)
        and _count(value.get("nimg"))
        and (name := _selection(value)) in value
        and _optional(_number, value[name])
    )


def _selection(evaluation: dict[str, Any]) -> str | None:
    """Name of the selection value, or None if it is not a name."""
    name = evaluation.get("selection", "fd")
    return name if isinstance(name, str) and name.isprintable() else None


def _best(value: Any, evaluations: Any, finished: bool) -> bool:
    """Whether a value is that of the best evaluation; None before the end if no evaluation returned a number."""
    names = {name for line in evaluations if line[name := _selection(line)] is not None}
    if value is None:
        return not names and not finished
    return (
        (bool(names) or finished)
        and _by_name(_number, value)
        and _count(value.get("nimg"))
        and all(name in value for name in names)
    )


def _meter(value: Any, begun: bool) -> bool:
    """Whether a value is a meter's state, with counts if the tick has begun."""
    if not (isinstance(value, dict) and _number(value.get("seconds"))):
        return False
    means, counts = value.get("means"), value.get("counts")
    return (
        isinstance(means, dict)
        and isinstance(counts, dict)
        and means.keys() == set(GROUPS)
        and all(_by_name(_mean, group) for group in means.values())
        and _by_name(_count, counts)
        and counts.keys() in ({*TICK_COUNTS}, *([] if begun else [set()]))
    )


def _mean(value: Any) -> bool:
    """Whether a value is a sum with its count."""
    return isinstance(value, list) and len(value) == 2 and _number(value[0]) and _count(value[1])


def _published(value: Any) -> bool:
    """Whether a value is the metadata of a finished run's network."""
    return isinstance(value, dict) and isinstance(value.get("network"), dict)
