"""A run: its identity, which is the digest of everything that decides its result, and its folder.

The folder has a lock, two states, snapshots, logs and the network.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sida.config.families import check_images, check_latents
from sida.config.lookup import code_sha256, load_object
from sida.config.recipe import TeacherConfig
from sida.config.roles import decisive
from sida.config.settings import names_object
from sida.data import Dataset
from sida.errors import PassingError, UserError, say, settings_in
from sida.files.atomic import (
    append_jsonl,
    jsonl_text,
    sha256_json,
    sweep_temporaries,
    try_lock,
    wait_for_lock,
    write_text,
)
from sida.files.ordinary import DENIED, NO_PERMISSION
from sida.files.parts import PartFolder
from sida.machine import derive_seed
from sida.networks.described import network_latents
from sida.networks.file import build_network, save_network, write_state_dict
from sida.networks.precond import Precond
from sida.training.optimizer import FlatParameters, NamedTensors
from sida.training.processes import ALONE, Ranks

#: Enters the digest of states, so that a state of another version is never read.
STATE_FORMAT = "sida-state-2"
KEPT_STATES = 2
#: Start of the names of the result's tensors in a state.
BEST = "best/"
#: Name of a state's tensor with the bytes of the record: the log of a long run is larger than a header may be.
_RECORD = "record"


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


class State(NamedTuple):
    """A state of a run.

    Attributes:
        record: JSON values: images seen, log records, best value, ...
        tensors: The trainer's tensors, and those of the result with the prefix :data:`BEST`; on the CPU.
    """

    record: dict[str, Any]
    tensors: NamedTensors


class RunFolder:
    """Folder of a run: one lock, two states, logs, snapshots, and at the end the network. Only rank 0 writes.

    A state is one tensor file with the optimizers and the log (:mod:`sida.files.parts`), and a process killed at any
    moment leaves the one before it. States and snapshots are copied at once and written in the background.
    :meth:`check`, which a loop calls often, and the next call that writes raise the error of a failed write.

        with RunFolder(folder, digest) as files:
            if files.state is None:
                ...

    Args:
        folder: The folder.
        digest: See :func:`run_digest`.
        set_aside: Start a new run although the folder holds an unfinished run of other settings. Its states and
            snapshots lie below ``aside/`` until a run with its settings takes them back.
        ranks: Processes that train together; all read the state, from a disk that they share.

    Attributes:
        state: State from which to resume, until it is taken; None for a new run.
        network: Path of the run's network.
    """

    def __init__(self, folder: Path, digest: str, set_aside: bool = False, ranks: Ranks = ALONE) -> None:
        self.folder, self.digest, self.set_aside, self.ranks = Path(folder), digest, set_aside, ranks
        self.network = self.folder / "network.safetensors"
        self.state: State | None = None
        self._parts = PartFolder(self.folder / "state", sha256_json([STATE_FORMAT, digest]))
        self._held = contextlib.ExitStack()
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[None] = Future()
        self._written.set_result(None)

    def __enter__(self) -> RunFolder:
        """Waits for the lock and reads the state.

        Raises:
            UserError: The folder cannot be locked or read now, or holds an unfinished run of other settings.
        """
        place = self.ranks.from_first(self._open)
        if self.ranks.rank and place is not None:
            self.state = self._read(place)
        return self

    def _open(self) -> int | None:
        """Locks the folder, reads its state, and returns the state's place."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, lock)
                if not try_lock(lock):
                    say(f"{self.folder}: another process is at work on this run; waiting for it to finish")
                    wait_for_lock(lock)
            except OSError as error:
                remedy = NO_PERMISSION if error.errno in DENIED else "use a file system with locks"
                remedy += ", or choose another --out"
                raise PassingError(self.folder, f"cannot be locked ({error.strerror})", remedy) from None
            self._exchange_runs()
            for swept in (self.folder, self._parts.folder, self.folder / "snapshots"):
                sweep_temporaries(swept)  # of killed processes
            for place in reversed(self._parts.places()):
                self.state = self._read(place)
                if self.state is not None:
                    break
                say(f"{self._parts.path(place)}: this state is damaged, and removed; going back to the one before it")
                self._parts.remove(place)
            self._held = stack.pop_all()
        return None if self.state is None else place

    def _exchange_runs(self) -> None:
        """Moves states and snapshots of another run aside, and those of this run back."""
        headers = (self._parts.header(place) for place in reversed(self._parts.places()))
        header = next(filter(None, headers), None)
        moves = []
        if header is not None and header["job"] != self._parts.job:
            kind = "a finished run" if header["record"]["finished"] else "an unfinished run"
            fault = f"holds {kind} (image {header['place']}) of other settings, inputs or version"
            if not (header["record"]["finished"] or self.set_aside):
                remedy = "go back to its settings to resume it, choose another --out, or start anew beside it"
                raise UserError(self.folder, fault, f"{remedy} with --set-aside (it is kept)")
            say(f"{self.folder}: {fault}; it is kept, and this run starts anew")
            moves.append((self.folder, self._aside(header["job"])))
        # The states go last: they say whose the folder is.
        for source, target in (*moves, (self._aside(self._parts.job), self.folder)):
            for name in ("snapshots", "state"):
                if (source / name).is_dir() and not (target / name).exists():
                    target.mkdir(parents=True, exist_ok=True)
                    (source / name).rename(target / name)

    def _aside(self, job: str) -> Path:
        return self.folder / "aside" / job[:12]

    def _read(self, place: int) -> State | None:
        part = self._parts.read(place)
        if part is None:
            return None
        record = json.loads(part.tensors.pop(_RECORD).numpy().tobytes())
        return State(record, part.tensors)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._writer.shutdown()
            if kind is None or issubclass(kind, Exception):
                fault = self._written.exception()
                if fault is not None and fault is not error:
                    raise fault
        finally:
            self._held.close()

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

    def save(self, record: Mapping[str, Any], changing: NamedTensors, unchanging: NamedTensors) -> None:
        """Writes a state in the background; of this run the newest two remain.

        Args:
            record: JSON values with ``nimg`` and ``finished``; the caller must not change them afterwards.
            changing: Tensors that training continues to change; copied first.
            unchanging: Tensors on the CPU that no longer change; written without a copy.
        """
        if self.ranks.rank:
            return
        # At most one copy of a state is in memory, however slow the disk.
        self.wait()
        self._written = self._writer.submit(self._write_state, record, {**copied(changing), **unchanging})

    def _write_state(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        if not self._parts.folder.parent.is_dir():
            raise self._gone()
        text = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
        self._parts.write(record["nimg"], 0, {**tensors, _RECORD: text}, {"finished": record["finished"]})
        for place in self._parts.places()[:-KEPT_STATES]:
            self._parts.remove(place)

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

    def log(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a record to the log ``train`` or ``evaluations``.

        Raises:
            UserError: The folder is gone.
        """
        if self.ranks.rank:
            return
        try:
            append_jsonl(self.folder / f"{name}.jsonl", record)
        except FileNotFoundError:
            raise self._gone() from None

    def write_logs(self, record: Mapping[str, Any]) -> None:
        """Writes both logs anew with the records of a state."""
        if not self.ranks.rank:
            for name in ("train", "evaluations"):
                write_text(self.folder / f"{name}.jsonl", jsonl_text(record[name]))

    def _gone(self) -> UserError:
        fault = "is gone: it was renamed or removed during the training, which ends here"
        return UserError(
            self.folder, fault, "rename it back, or give its new place as --out, and run the same command again"
        )

    def publish(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes all results of a finished state; the network comes last: if it is there, all are.

        Args:
            record: Record of the state.
            tensors: Its tensors; those of the result are the state of an average.
        """
        if not self.ranks.rank:
            self.write_logs(record)
            net = build_network(record["metadata"]["network"])
            FlatParameters(net).load({name.removeprefix(BEST): tensor for name, tensor in tensors.items()})
            save_network(net, self.network, record["metadata"])


def copied(tensors: NamedTensors) -> NamedTensors:
    """Copies of tensors on the CPU, so that later steps may change the tensors."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
