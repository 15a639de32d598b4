"""A run: its identity, which is the digest of everything that decides its result, and its folder.

The folder has a lock, states, snapshots, logs and the network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from sida.config.families import check_images, check_latents
from sida.config.lookup import code_sha256, load_object
from sida.config.recipe import TeacherConfig
from sida.config.roles import decisive
from sida.config.settings import names_object
from sida.data import Dataset
from sida.errors import UserError, say, settings_in
from sida.files.atomic import sha256_json, sweep_temporaries, try_lock, wait_for_lock, write_text
from sida.files.ordinary import DENIED, NO_PERMISSION, UnreadableError, open_ordinary
from sida.files.tensors import iterate_tensors, read_tensor_header, read_tensors, write_tensors
from sida.files.text_files import HASH_KEY, check_hash, parse_json, read_text, with_hash
from sida.machine import derive_seed
from sida.networks.described import network_latents
from sida.networks.file import (
    build_network,
    build_on_meta,
    read_metadata,
    save_network,
    write_state_dict,
)
from sida.networks.precond import Precond
from sida.training.logs import Logs, gone
from sida.training.optimizer import FlatParameters, NamedTensors
from sida.training.processes import ALONE, Ranks

STATE_FORMAT = "sida-state-1"
KEPT_STATES = 2
#: Start of the names of the result's tensors in a state.
BEST = "best/"
T = TypeVar("T")
_NAME = re.compile(r"state-(\d{6}|[1-9]\d{6,})\.json", re.ASCII)


def check_shapes(net: torch.nn.Module, dataset: Dataset, where: str, classes: bool = True) -> None:
    """Checks that a network fits the images and, with ``classes``, the classes of a data set.

    Raises:
        UserError: Resolution, channels, classes or the kind of latents differ.
    """
    channels, resolution, _ = dataset.network_shape
    label_dim = dataset.label_dim if classes else None
    data_shape = {"img_resolution": resolution, "img_channels": channels, "label_dim": label_dim}
    with settings_in(where):
        check_images({option: getattr(net, option) for option in data_shape}, data_shape, f"data set '{dataset.name}'")
        if not dataset.is_pixels:
            check_latents(network_latents(net), dataset.latents, f"data set '{dataset.name}'")


def new_network(network: Mapping[str, Any], seed: int, dataset: Dataset, device: torch.device, where: str) -> Precond:
    """Returns the network from which a training without a start begins, on the device, with the weights of a seed.

    Args:
        network: ``{class, kwargs}``.
        seed: Seed of the run.
        dataset: Data that it must fit.
        device: Its device.
        where: Place of the network named in errors.

    Raises:
        UserError: It cannot be built, or does not fit the data.
    """
    torch.manual_seed(derive_seed(seed, "initialisation"))
    net = build_network(network, where).to(device)
    check_shapes(net, dataset, f"{where}.kwargs")
    return net


def run_digest(kind: str, settings: Mapping[str, Any], dataset_sha256: str, parents: Mapping[str, str | None]) -> str:
    """Returns the digest of everything that decides a run's result.

    Args:
        kind: ``"teacher"`` or ``"student"``.
        settings: Settings that decide the result, see :func:`sida.config.roles.decisive`.
        dataset_sha256: Digest of the data.
        parents: SHA-256 of the networks from which a student starts.
    """
    dataset = {key: value for key, value in settings["dataset"].items() if key not in ("path", "cache")}
    all_settings = {**settings, "dataset": dataset}
    return sha256_json({"kind": kind, "settings": all_settings, "dataset": dataset_sha256, "parents": dict(parents)})


def class_source(network: Mapping[str, Any], where: str) -> dict[str, str | None]:
    """Returns the SHA-256 of a custom network class's source, as an entry of its settings; empty for our classes.

    Raises:
        UserError: The class cannot be found or is not allowed.
    """
    if not names_object(network["class"]):
        return {}
    return {"source_sha256": code_sha256(*load_object(network["class"], f"{where}.class", "class"))}


def teacher_digest(config: TeacherConfig, dataset_sha256: str, where: str = "spec") -> str:
    """Returns the digest of everything that decides a teacher's training, see :func:`run_digest`.

    Raises:
        UserError: The network has a custom class that is not allowed.
    """
    settings = decisive(config)
    if config.batch_gpu is None:
        # Digests of stored teachers do not contain it; digests of students always do.
        del settings["batch_gpu"]
    settings["network"] = {**settings["network"], **class_source(config.network, f"{where}.network")}
    return run_digest("teacher", settings, dataset_sha256, {})


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

    A state is a tensor file and, written after it, a JSON file with the digests of its configuration and its tensors;
    each has the hash of its own content. A process killed at any moment leaves the previous state intact. States of
    several configurations lie side by side; a configuration resumes from its own states. A state is removed only when
    its own configuration has two newer ones.

    Args:
        folder: Folder of the states.
        digest: Digest of everything that decides the run's result.
        set_aside: Start anew although the folder holds an unfinished run that this configuration cannot resume;
            that run's states stay.
    """

    def __init__(self, folder: Path, digest: str, set_aside: bool = False) -> None:
        self.folder, self.digest, self.set_aside = Path(folder), digest, set_aside
        # Numbers of this configuration's states; the intact ones come last.
        self._own: list[int] = []

    def load(self) -> KeptState | None:
        """The newest intact state of this configuration, or None; reports a state that is not simply the newest.

        Raises:
            UserError: A state cannot be read for now, or (without ``set_aside``) the run would start anew beside
                an unfinished one; nothing was changed.
        """
        try:
            return self._newest()
        except UnreadableError as error:
            path, fault = error.where, error.fault
        except OSError as error:
            path, fault = error.filename or str(self.folder), f"cannot be read ({error.strerror or error})"
        raise UserError(path, fault, "nothing was changed: fix that, then run this again")

    def _newest(self) -> KeptState | None:
        headers = {number: _intact(self._path(number, ".json"), _header) for number in self._numbers()}
        numbers = [number for number, header in headers.items() if header is None or header["digest"] == self.digest]
        for number in reversed(numbers):
            header, path = headers[number], self._path(number)
            if header and (tensors := _intact(self._path(number, ".safetensors"), _tensors_of(header))):
                if number != numbers[-1]:
                    say(f"{self._path(numbers[-1])}: this state is damaged; going back to {path.name}")
                self._own = [other for other in numbers if headers[other] and other != number] + [number]
                return KeptState(header["record"], tensors, path)
        if headers:
            newest = headers[max(headers)]
            self._start_anew(numbers, max(headers), newest["record"] if newest else {})
        return None

    def _start_anew(self, damaged: Sequence[int], newest: int, record: Mapping[str, Any]) -> None:
        """Reports why the run starts anew; without permission, refuses to leave an unfinished run behind."""
        finished = not damaged and record.get("finished")
        kind = "a finished run" if finished else f"an unfinished run (image {record.get('nimg')})"
        why = f"{self._path(newest)} is the state of {kind} of another configuration or other inputs"
        if damaged:
            why = f"the kept state {self._path(damaged[-1])} is damaged, and there is none before it"
        if not (finished or self.set_aside):
            remedy = "go back to its settings to resume it, choose another --out, or start anew beside it"
            raise UserError("", why, f"{remedy} with --set-aside (it is kept)")
        say(f"{why}; it is kept, and this run starts anew")

    def save(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes a new state, then removes all states of this configuration except the newest two intact ones.

        Raises:
            UserError: The disk is full or the folder is gone; earlier states are untouched.
        """
        try:
            number = max(self._numbers(), default=0) + 1
            tensors_sha256 = write_tensors(self._path(number, ".safetensors"), tensors)
            # On one line: an indented one is made by Python code, which would slow down the training meanwhile.
            facts = {"format": STATE_FORMAT, "digest": self.digest, "tensors_sha256": tensors_sha256}
            header = with_hash({**facts, "record": record})
            write_text(self._path(number, ".json"), f"{json.dumps(header, sort_keys=True)}\n")
            self._own.append(number)
            while len(self._own) > KEPT_STATES:
                # The header goes last: a kill in between leaves a state that is known to be ours and removed next time.
                for suffix in (".safetensors", ".json"):
                    self._path(self._own[0], suffix).unlink(missing_ok=True)
                del self._own[0]
        except FileNotFoundError:
            raise gone(self.folder.parent) from None
        except OSError as error:
            fault = f"the state cannot be written ({error})"
            raise UserError(self.folder, fault, "make room, then run the same command again") from None

    def _path(self, number: int, suffix: str = "") -> Path:
        return self.folder / f"state-{number:06d}{suffix}"

    def _numbers(self) -> list[int]:
        """Numbers of the states that were completed, oldest first."""
        # Not glob, which takes a folder that cannot be read for an empty one.
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, os.listdir(self.folder)) if match)


def _header(path: Path) -> dict[str, Any]:
    """A state's JSON.

    Raises:
        UserError: It is damaged.
    """
    header = parse_json(read_text(path), str(path))
    header = check_hash(header, path) if isinstance(header, dict) and HASH_KEY in header else {}
    if header.get("format") != STATE_FORMAT or not isinstance(header.get("record"), dict) or "digest" not in header:
        raise UserError(path, f"is not a {STATE_FORMAT} file")
    return header


def _tensors_of(header: Mapping[str, Any]) -> Callable[[Path], NamedTensors]:
    """A reader of the tensors that a state's JSON names."""

    def read(path: Path) -> NamedTensors:
        tensor_header = read_tensor_header(path)
        # Earlier states name no tensors.
        if header.get("tensors_sha256", tensor_header.sha256) != tensor_header.sha256:
            raise UserError(path, "has the tensors of another state")
        return dict(iterate_tensors(path, tensor_header))

    return read


def _intact(path: Path, read: Callable[[Path], T]) -> T | None:
    """Reads a file of a state; None if it is damaged or gone.

    Raises:
        UnreadableError, OSError: The file may well be intact, but cannot be read now.
    """
    try:
        with open_ordinary(path):
            return read(path)
    except UnreadableError:
        raise
    except UserError:
        return None


@contextlib.contextmanager
def version_errors(state: KeptState) -> Iterator[None]:
    """Turns errors caused by values of an intact state of another version into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        remedy = "resume with that version, or choose another --out"
        raise UserError(state.path, "was written by another version of the program", remedy) from None


class RunFiles:
    """Folder of a run: reads and writes its files while holding its lock. On ranks other than 0 it writes nothing.

    States and snapshots are copied at once and written in the background, one after the other. :meth:`check`, which a
    loop calls often, and the next call that writes raise the error of a failed write.

        with RunFiles(folder, digest) as files:
            if not files.finished:
                ...

    Args:
        folder: The run's folder.
        digest: See :func:`run_digest`.
        set_aside: Start a new run and keep the state of an unfinished run with another configuration.
        ranks: Processes that train together: rank 0 writes; all read the state, from a disk that they share.

    Attributes:
        kept: State from which to resume, until it is taken; None for a new run.
        network: Path of the run's network.
        logs: Logs of the run.
    """

    def __init__(self, folder: Path, digest: str, set_aside: bool = False, ranks: Ranks = ALONE) -> None:
        self.folder, self.digest, self.ranks = folder, digest, ranks
        self.network = folder / "network.safetensors"
        self.kept: KeptState | None = None
        self._store = StateStore(folder / "state", digest, set_aside)
        self.logs = Logs(folder, written=not ranks.rank)
        self._lock = contextlib.ExitStack()
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[None] = Future()
        self._written.set_result(None)

    def __enter__(self) -> RunFiles:
        """Waits for the lock and reads the state.

        Raises:
            UserError: See :meth:`StateStore.load`; the folder does not change.
        """
        stored = self.ranks.from_first(self._find)
        if stored is not None and self.ranks.rank:
            record, path = stored
            self.kept = KeptState(record, read_tensors(path.with_suffix(".safetensors"))[0], path)
        return self

    def _find(self) -> tuple[dict[str, Any], Path] | None:
        """Locks the folder and reads its state; returns the state's record and path.

        Waits for another process that trains the same run.

        Raises:
            UserError: The folder cannot be written, or its file system has no locks.
        """
        folder = self.folder / "state"
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, lock)
                if not try_lock(lock):
                    say(f"{folder}: another process is at work on this run; waiting for it to finish")
                    wait_for_lock(lock)
            except OSError as error:
                remedy = NO_PERMISSION if error.errno in DENIED else "use a file system with locks"
                remedy += ", or choose another --out"
                raise UserError(folder, f"cannot be locked ({error.strerror})", remedy) from None
            self.kept = self._store.load()
            # Unfinished files of killed processes.
            for swept in (self.folder, folder, self.folder / "snapshots"):
                sweep_temporaries(swept)
            self._sort_snapshots()
            self._lock = stack.pop_all()
        return None if self.kept is None else (self.kept.record, self.kept.path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            # A second Ctrl-C ends at once, without waiting for a write.
            if kind is None or issubclass(kind, Exception):
                fault = self._written.exception()
                if fault is not None and fault is not error:
                    raise fault
        finally:
            self._writer.shutdown(wait=False)
            # The lock stays until the last write has ended, also if this thread does not wait for it.
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
        of the other. A network without a run stays where it is.

        Raises:
            UserError: A snapshot is damaged.
        """
        shelf = self.folder / "snapshots"
        names = "network-*.safetensors"
        for path in [*sorted(shelf.glob(names)), *sorted(shelf.glob(f"{self.digest[:12]}/{names}"))]:
            owner = str(read_metadata(path).get("config_sha256", self.digest))
            home = shelf if owner == self.digest else shelf / owner[:12]
            if home != path.parent:
                home.mkdir(exist_ok=True)
                # The picture lies beside the first network of its number of images.
                for file in (*path.parent.glob(f"network-{path.stem.split('-')[1]}.png"), path):
                    file.rename(home / file.name)

    def write_snapshot(
        self,
        metadata: Mapping[str, Any],
        networks: Mapping[str, tuple[torch.nn.Module, Mapping[str, Any]]],
        picture: Callable[[torch.nn.Module, Path], None],
    ) -> None:
        """Writes the present networks in the background, after ``metadata["nimg"]`` images, and draws the first.

        Args:
            metadata: Metadata of all networks.
            networks: Networks with their further metadata, by the suffix of their file names.
            picture: Draws images of the first network to a file.
        """
        if self.ranks.rank:
            return
        start = self.folder / "snapshots" / f"network-{metadata['nimg']:010d}"
        picture(next(iter(networks.values()))[0], start.with_name(f"{start.name}.png"))
        self.wait()
        files = [
            (copied(net.state_dict()), start.with_name(f"{start.name}{end}.safetensors"), {**metadata, **more})
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
        # At most one copy of a state is in memory, however slow the disk.
        self.wait()
        self._written = self._writer.submit(self._store.save, record, {**copied(changing), **unchanging})

    def publish(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes all results from the last state; the network comes last, so its presence means that all are written.

        Args:
            record: Record of the finished state.
            tensors: Its tensors; those of the result are the state of an average.
        """
        if not self.ranks.rank:
            self.logs.restart(record["train"], record["evaluations"], final=True)
            state = {name.removeprefix(BEST): tensor for name, tensor in tensors.items()}
            net = build_network(record["metadata"]["network"])
            FlatParameters(net).load(state)
            save_network(net, self.network, record["metadata"])

    def publish_again(self, stage: str) -> None:
        """Writes all results of a finished run from its state, and reports it."""
        assert self.kept is not None
        say(f"[{stage}] already trained; writing its files")
        with version_errors(self.kept):
            build_on_meta(self.kept.record["metadata"]["network"], str(self.kept.path.with_suffix(".json")))
            self.publish(self.kept.record, self.kept.tensors)


def copied(tensors: NamedTensors) -> NamedTensors:
    """Copies of tensors on the CPU, so that later steps may change the tensors."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
