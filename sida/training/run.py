"""Folder of a run: its lock, states, snapshots, logs and network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sida.errors import UserError, say
from sida.files.atomic import sha256_file, sweep_temporaries, try_lock, wait_for_lock, write_text
from sida.files.content_hash import HASH_KEY, check_hash, with_hash
from sida.files.ordinary import UnreadableError
from sida.files.tensors import read_tensors, write_tensors
from sida.files.text_files import parse_json, read_text
from sida.networks.file import build_on_meta, read_metadata, write_state_dict
from sida.training.logs import Logs
from sida.training.optimizer import NamedTensors, write_network
from sida.training.processes import ALONE, Ranks

#: Function that draws images of a network to a file.
DrawPicture = Callable[[torch.nn.Module, Path], None]
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
    tensors: NamedTensors
    path: Path


class StateStore:
    """The ``state/`` folder of a run, to be used under the run's lock.

    A state is a tensor file and, written after it, a JSON file that holds its SHA-256, the digest of its configuration
    and the hash of its own content: a process killed at any moment leaves the previous state intact. States of several
    configurations lie side by side; a configuration resumes from its own states. A state is removed only when its
    own configuration has two newer ones.

    Args:
        folder: Folder of the states.
        digest: Digest of everything that decides the run's result.
        set_aside: Start anew although the folder holds an unfinished run that this configuration cannot resume;
            that run's states stay.
    """

    def __init__(self, folder: Path, digest: str, set_aside: bool = False) -> None:
        self.folder, self.digest, self.set_aside = Path(folder), digest, set_aside
        # Numbers of this configuration's states: those that are known to be intact come last.
        self._own: list[int] = []

    def load(self) -> KeptState | None:
        """The newest intact state of this configuration, or None; reports a state that is not simply the newest.

        Raises:
            UserError: A state cannot be read for now, or (without ``set_aside``) the run would start anew beside
                an unfinished one; nothing was changed.
        """
        headers = {number: self._header(number) for number in self._numbers()}
        foreign = {number for number, header in headers.items() if header and header["digest"] != self.digest}
        damaged: list[int] = []
        for number in sorted(headers.keys() - foreign, reverse=True):
            header = headers[number]
            tensors = None if header is None else self._tensors(number, header["tensors_sha256"])
            if header is None or tensors is None:
                damaged.append(number)
                continue
            for other in damaged:
                say(f"{self._path(other)}: this state is damaged; going back to the one before it")
            if max(foreign, default=0) > number:
                say(f"{self._path(number)}: resuming from this kept state, whose settings are back")
            own = [n for n, other in headers.items() if other is not None and n not in foreign and n != number]
            self._own = [*own, number]
            return KeptState(header["record"], tensors, self._path(number))
        if headers:
            newest = headers[max(headers)]
            self._start_anew(damaged, max(headers), {} if newest is None else newest["record"])
        return None

    def _start_anew(self, damaged: Sequence[int], newest: int, record: Mapping[str, Any]) -> None:
        """Reports why the run starts anew; without permission, refuses to leave an unfinished run behind."""
        finished = not damaged and record.get("finished")
        if damaged:
            why = f"the kept state {self._path(damaged[0])} is damaged, and there is none before it"
        else:
            kind = "a finished run" if finished else f"an unfinished run (image {record.get('nimg')})"
            why = f"{self._path(newest)} is the state of {kind} of another configuration or other inputs"
        if not (finished or self.set_aside):
            ways = "go back to its settings to resume it, choose another --out, or start anew beside it"
            raise UserError("", why, f"{ways} with --set-aside (it is kept)")
        say(f"{why}; it is kept, and this run starts anew")

    def save(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes a new state, then removes all states of this configuration except the newest two intact ones.

        Raises:
            UserError: The disk is full or the folder is gone; earlier states are untouched.
        """
        try:
            number = max(self._numbers(), default=0) + 1
            file = self._path(number).with_suffix(".safetensors")
            write_tensors(file, tensors)
            digests = {"digest": self.digest, "tensors_sha256": sha256_file(file)}
            header = {"format": STATE_FORMAT, **digests, "record": dict(record)}
            # On one line: an indented one is made by Python code, which would slow down the training meanwhile.
            text = json.dumps(with_hash(header), sort_keys=True)
            write_text(file.with_suffix(".json"), f"{text}\n")
            self._own.append(number)
            while len(self._own) > KEPT_STATES:
                # The header goes last: a kill in between leaves a state that is known to be ours and removed next time.
                for suffix in (".safetensors", ".json"):
                    self._path(self._own[0]).with_suffix(suffix).unlink(missing_ok=True)
                del self._own[0]
        except OSError as error:
            fault = f"the state cannot be written ({error})"
            raise UserError(self.folder, fault, "make room, then run the same command again") from None

    def _path(self, number: int) -> Path:
        return self.folder / f"state-{number:06d}"

    def _numbers(self) -> list[int]:
        """Numbers of the states that were completed, oldest first."""
        try:
            # Not glob, which takes a folder that cannot be read for an empty one.
            found = [_NAME.fullmatch(name) for name in os.listdir(self.folder)]
        except OSError as error:
            raise _unreadable(self.folder, error) from None
        return sorted(int(name[1]) for name in found if name)

    def _header(self, number: int) -> dict[str, Any] | None:
        """A state's JSON, or None if it is damaged."""
        path = self._path(number).with_suffix(".json")
        try:
            header = parse_json(read_text(path), str(path)) if _is_file(path) else None
            header = check_hash(header, path) if isinstance(header, dict) and HASH_KEY in header else {}
        except (OSError, UnreadableError) as error:
            raise _unreadable(path, error) from None
        except UserError:
            return None
        typed = all(isinstance(header.get(key), kind) for key, kind in _FIELDS.items())
        return header if typed and header["format"] == STATE_FORMAT else None

    def _tensors(self, number: int, sha256: str) -> NamedTensors | None:
        """A state's tensors, or None if they are damaged or gone."""
        path = self._path(number).with_suffix(".safetensors")
        try:
            if not os.path.lexists(path) or not _is_file(path) or sha256_file(path) != sha256:
                return None
            return read_tensors(path)[0]
        except OSError as error:
            raise _unreadable(path, error) from None


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


def _unreadable(path: Path, error: OSError | UnreadableError) -> UserError:
    """The error for a state that may well be intact but cannot be read now."""
    reason = error.fault if isinstance(error, UnreadableError) else f"cannot be read ({error.strerror or error})"
    return UserError(path, reason, "nothing was changed: fix that, then run this again")


#: Errors of a program that reads the state of another version.
OTHER_STATE = (KeyError, TypeError, ValueError, AttributeError, RuntimeError)


def other_state(path: Path) -> UserError:
    """The error for an intact state whose values are not those that its run keeps."""
    return UserError(
        path, "was written by another version of the program", "resume with that version, or choose another --out"
    )


class RunFiles:
    """Folder of a run: reads and writes its files while holding its lock. On ranks other than 0 it writes nothing.

    States and snapshots are copied at once and written in the background, one after the other. :meth:`check`, which a
    loop calls often, and the next call that writes raise the error of a failed write.

        with RunFiles(folder, digest) as files:
            if not files.finished:
                ...

    Args:
        folder: The run's folder.
        digest: See :func:`sida.training.identity.run_digest`.
        set_aside: Start a new run and keep the state of an unfinished run with another configuration.
        ranks: Processes that train together: rank 0 writes; all read the state, from a disk that they share.
        loggers: Trackers of the logs' numbers.

    Attributes:
        kept: State from which to resume, until it is taken; None for a new run.
        network: Path of the run's network.
    """

    def __init__(
        self, folder: Path, digest: str, set_aside: bool = False, ranks: Ranks = ALONE, loggers: Sequence[str] = ()
    ) -> None:
        self.folder, self.digest, self.ranks = folder, digest, ranks
        self.network = folder / "network.safetensors"
        self.kept: KeptState | None = None
        self._store = StateStore(folder / "state", digest, set_aside)
        self._logs = Logs(folder, "tensorboard" in loggers)
        self._lock = contextlib.ExitStack()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._written: Future[None] = Future()
        self._written.set_result(None)

    def __enter__(self) -> RunFiles:
        """Waits for the lock and reads the state.

        Raises:
            UserError: See :meth:`StateStore.load`; the folder does not change.
        """
        found = self.ranks.from_first(self._find)
        if found is not None and self.ranks.rank:
            record, path = found
            self.kept = KeptState(record, read_tensors(path.with_suffix(".safetensors"))[0], path)
        return self

    def _find(self) -> tuple[dict[str, Any], Path] | None:
        """Locks the folder and reads its state; returns the state's record and path."""
        try:
            self._take_lock(self.folder / "state")
            self.kept = self._store.load()
            # Unfinished files of killed processes.
            for folder in (self.folder, self.folder / "state", self.folder / "snapshots"):
                sweep_temporaries(folder)
            self._sort_snapshots()
        except BaseException:
            self._lock.close()
            raise
        return None if self.kept is None else (self.kept.record, self.kept.path)

    def _take_lock(self, folder: Path) -> None:
        """Locks the run; a process that works on the same run is waited for.

        Raises:
            UserError: The folder cannot be written, or its file system has no locks.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            self._lock.callback(os.close, lock)
            if not try_lock(lock):
                say(f"{folder}: another process is at work on this run; waiting for it to finish")
                wait_for_lock(lock)
        except OSError as error:
            ways = "use a file system with locks, or choose another --out"
            raise UserError(folder, f"cannot be locked ({error.strerror})", ways) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._logs.close()
            # An insistent Ctrl-C waits for nothing.
            if kind is None or issubclass(kind, Exception):
                fault = self._written.exception()
                if fault is not None and fault is not error:
                    raise fault
        finally:
            self._writer.shutdown(wait=False)
            # The lock is for as long as something is written, also when nobody waits for it.
            self._written.add_done_callback(lambda _: self._lock.close())

    @property
    def busy(self) -> bool:
        """Whether a state or snapshot is being written."""
        return not self._written.done()

    def check(self) -> None:
        """Raises the error of a failed background write.

        Raises:
            UserError: The disk is full or the folder has been removed; earlier states are intact.
        """
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Waits until everything is written; raises the errors of :meth:`check`."""
        self._written.result()

    @property
    def finished(self) -> bool:
        """Whether the training is complete."""
        return self.kept is not None and bool(self.kept.record.get("finished"))

    def _sort_snapshots(self) -> None:
        """Moves snapshots of other configurations to ``snapshots/<digest>/``, and this configuration's back.

        So a run that resumes after another run in the same folder finds its own snapshots, and neither overwrites those
        of the other. A network that belongs to no run stays in place.

        Raises:
            UserError: A snapshot is damaged.
        """
        shelf = self.folder / "snapshots"
        for path in sorted(shelf.glob("network-*.safetensors")):
            owner = str(read_metadata(path).get("config_sha256", self.digest))
            if owner != self.digest:
                (shelf / owner[:12]).mkdir(exist_ok=True)
                _move(path, shelf / owner[:12])
        for path in sorted((shelf / self.digest[:12]).glob("network-*.safetensors")):
            _move(path, shelf)

    def log(self, name: str, record: dict[str, Any]) -> None:
        """Adds a record to ``train.jsonl`` or ``evaluations.jsonl``."""
        if not self.ranks.rank:
            self._logs.add(name, record)

    def write_logs(
        self, train: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], final: bool = False
    ) -> None:
        """Writes ``train.jsonl`` and ``evaluations.jsonl`` anew; ``final`` marks that no record follows."""
        if not self.ranks.rank:
            self._logs.restart(train, evaluations, final)

    def write_snapshot(
        self,
        metadata: Mapping[str, Any],
        networks: Mapping[str, tuple[torch.nn.Module, Mapping[str, Any]]],
        picture: DrawPicture,
    ) -> None:
        """Writes the present networks in the background, after ``metadata["nimg"]`` images, and draws the first.

        Args:
            metadata: Metadata of all networks.
            networks: Networks with their further metadata, by the suffix of their file names.
            picture: Draws images of the first network.
        """
        if self.ranks.rank:
            return
        start = self.folder / "snapshots" / f"network-{metadata['nimg']:010d}"
        picture(next(iter(networks.values()))[0], start.with_name(f"{start.name}.png"))
        self.wait()
        files = [
            (_copied(net.state_dict()), start.with_name(f"{start.name}{end}.safetensors"), {**metadata, **more})
            for end, (net, more) in networks.items()
        ]

        def write() -> None:
            for copies, path, record in files:
                write_state_dict(copies, path, record)

        self._written = self._writer.submit(write)

    def save(self, record: Mapping[str, Any], changing: NamedTensors, unchanging: NamedTensors) -> None:
        """Writes a state in the background, see :meth:`StateStore.save`.

        Args:
            record: Plain JSON values; the caller must not change them afterwards.
            changing: Tensors that training continues to change; copied first.
            unchanging: Tensors on the CPU that no longer change; written without a copy.
        """
        if self.ranks.rank:
            return
        # Copies of two states never wait for a slow disk together.
        self.wait()
        self._written = self._writer.submit(self._store.save, record, {**_copied(changing), **unchanging})

    def publish(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes all results from the last state; the network comes last, so its presence means that all are written.

        Args:
            record: Record of the finished state.
            tensors: Network to publish, as for :func:`write_network`.
        """
        if not self.ranks.rank:
            self.write_logs(record["train"], record["evaluations"], final=True)
            write_network(self.network, record["metadata"], tensors)

    def publish_again(self, stage: str) -> None:
        """Writes all results of a finished run from its state, and reports it."""
        assert self.kept is not None
        say(f"[{stage}] already trained; writing its files")
        tensors = {name.removeprefix("best/"): tensor for name, tensor in self.kept.tensors.items()}
        where = str(self.kept.path.with_suffix(".json"))
        try:
            build_on_meta(self.kept.record["metadata"]["network"], where)
            self.publish(self.kept.record, tensors)
        except OTHER_STATE:
            raise other_state(self.kept.path) from None


def _copied(tensors: NamedTensors) -> NamedTensors:
    """Copies of tensors on the CPU, so that later steps may change the tensors."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _move(snapshot: Path, folder: Path) -> None:
    """Moves a snapshot and its picture."""
    picture = "-".join(snapshot.stem.split("-")[:2]) + ".png"
    for path in (snapshot.with_name(picture), snapshot):
        if path.exists():
            path.rename(folder / path.name)
