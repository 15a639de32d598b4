"""A run: its settings, and the files in its folder (network, logs, states, snapshots)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from sida.config.mapping import from_mapping
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.files.atomic import sweep_temporaries
from sida.networks.checkpoint import read_metadata
from sida.networks.file import write_state_dict
from sida.progress import say
from sida.training.averages import check_architecture, write_network
from sida.training.background import BackgroundWriter, NamedTensors, copied_to_cpu
from sida.training.config import RunConfig
from sida.training.logs import Logs
from sida.training.ranks import ALONE, Ranks
from sida.training.record import is_record
from sida.training.state import KeptState, StateStore, other_tensors

P = ParamSpec("P")
AnyConfig = TypeVar("AnyConfig", bound=RunConfig)
#: Draws a network to a file.
DrawPicture = Callable[[torch.nn.Module, Path], None]
#: Where runs go that name no folder: below the results like everything else, and apart from every preset.
LOCAL_RESULTS = Path("results") / "local"


def read_config(
    cls: type[AnyConfig], config: AnyConfig | Mapping[str, Any], outdir: str | os.PathLike[str] | None, where: str
) -> tuple[AnyConfig, str | os.PathLike[str] | None]:
    """Settings and folder of a run, as Python calls name them.

    Args:
        cls: Class of the settings.
        config: Settings, or a mapping of them, perhaps with ``outdir``: the folder does not decide the result.
        outdir: Folder given beside the settings; goes before the key.
        where: Place named in errors.

    Returns:
        The settings, and the folder (None if nobody named one).

    Raises:
        UserError: Bad settings.
    """
    if isinstance(config, cls):
        return config, outdir
    assert isinstance(config, Mapping)
    named = config.get("outdir")
    if named is not None and not (isinstance(named, (str, os.PathLike)) and str(named)):
        raise UserError(f"{where}.outdir: must be the path of a folder, got {named!r}; remove it or name one")
    settings = from_mapping(cls, {key: value for key, value in config.items() if key != "outdir"}, where)
    return settings, named if outdir is None else outdir


def run_folder(outdir: str | os.PathLike[str] | None, kind: str, name: str) -> Path:
    """Folder of a run: the one given, else ``results/local/<kind>/<name>``.

    Args:
        outdir: Folder, or None.
        kind: ``teachers`` or ``students``.
        name: Name of the run.
    """
    return LOCAL_RESULTS / kind / name if outdir is None else Path(outdir)


def check_shapes(net: torch.nn.Module, dataset: Dataset, where: str) -> None:
    """Requires a network for exactly this data set's images and classes.

    Raises:
        UserError: Resolution, channels or classes differ.
    """
    channels, resolution, _ = dataset.network_shape
    wanted = {"img_resolution": resolution, "img_channels": channels, "label_dim": dataset.label_dim}
    for key, expected in wanted.items():
        actual = getattr(net, key)
        if actual != expected:
            raise UserError(f"{where}.{key}: {actual}, but data set {dataset.name} has {expected}; make them equal")


def of_the_first_rank(write: Callable[Concatenate[RunFiles, P], None]) -> Callable[Concatenate[RunFiles, P], None]:
    """Makes a method write in the first of the processes that train together, and do nothing in the others."""

    @functools.wraps(write)
    def written_once(files: RunFiles, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if files.ranks.rank == 0:
            write(files, *args, **kwargs)

    return written_once


class RunFiles:
    """The folder of a run: all that is read from it and written to it, while its lock is held.

    States and snapshots are copied when they are given and written in the background, one after the other; a fault is
    raised by :meth:`check`, which a loop calls often, and by what is written next.

        with RunFiles(folder, digest) as files:
            if not files.finished:
                ...

    Args:
        folder: The run's folder.
        digest: See :func:`sida.training.identity.run_digest`.
        set_aside: Start anew beside an unfinished run of another configuration.
        ranks: Processes that train together: the first reads and writes, the others learn from it what it found.
        tensorboard: Write TensorBoard's files, too.

    Attributes:
        kept: The state to resume from, until it is taken; None for a new run.
        network: Path of the run's network.
    """

    def __init__(
        self, folder: Path, digest: str, set_aside: bool = False, ranks: Ranks = ALONE, tensorboard: bool = False
    ) -> None:
        self.folder, self.digest, self.ranks = folder, digest, ranks
        self.network = folder / "network.safetensors"
        self.kept: KeptState | None = None
        self._store = StateStore(folder / "state", digest, set_aside, is_record)
        self._writer = BackgroundWriter()
        self._logs = Logs(folder, tensorboard)

    def __enter__(self) -> RunFiles:
        """Waits for the lock and finds the state.

        Raises:
            UserError: See :meth:`StateStore.load`; the folder is as it was.
        """
        found = self.ranks.from_first(self._find)
        if found is not None:
            record, path = found
            tensors = self.ranks.tensors_from_first(None if self.kept is None else self.kept.tensors)
            self.kept = KeptState(record, tensors, path)
        return self

    def _find(self) -> tuple[dict[str, Any], Path] | None:
        """Locks the folder and reads its state; what it says beside tensors, and where it lies."""
        self._store.__enter__()
        try:
            self.kept = self._store.load()
            self._sweep()
            self._sort_snapshots()
        except BaseException:
            self._store.__exit__(None, None, None)
            raise
        return None if self.kept is None else (self.kept.record, self.kept.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._logs.close()
            self._writer.__exit__(kind, error, trace)
        finally:
            self._store.__exit__(kind, error, trace)

    @property
    def busy(self) -> bool:
        """Whether something is being written in the background."""
        return self._writer.busy

    def check(self) -> None:
        """Raises what could not be written in the background.

        Raises:
            UserError: The disk is full or the folder is gone; earlier states are untouched.
        """
        self._writer.check()

    def wait(self) -> None:
        """Returns when all is written; errors as :meth:`check`."""
        self._writer.wait()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.kept is not None and bool(self.kept.record["finished"])

    def take_kept(self) -> KeptState:
        """The state to resume from, which is not held here any longer: its tensors take as much memory as the run's."""
        assert self.kept is not None
        kept, self.kept = self.kept, None
        return kept

    def _sweep(self) -> None:
        """Removes unfinished files of processes that were killed."""
        for folder in (self.folder, self.folder / "state", self.folder / "snapshots"):
            sweep_temporaries(folder)

    def _sort_snapshots(self) -> None:
        """Puts snapshots of other configurations into ``snapshots/<digest>/``, and this one's back from there.

        So a run that goes on after another one in the same folder finds its own, and neither overwrites the other's.
        A network that is of no run stays where it is.

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

    @of_the_first_rank
    def log(self, name: str, record: dict[str, Any]) -> None:
        """Adds a record to ``train.jsonl`` or ``evaluations.jsonl``."""
        self._logs.add(name, record)

    @of_the_first_rank
    def write_logs(
        self, train: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], final: bool = False
    ) -> None:
        """Writes ``train.jsonl`` and ``evaluations.jsonl`` as a whole; ``final``: none will follow."""
        self._logs.restart(train, evaluations, final)

    @of_the_first_rank
    def write_snapshot(
        self,
        metadata: Mapping[str, Any],
        networks: Mapping[str, tuple[torch.nn.Module, Mapping[str, Any]]],
        picture: DrawPicture | None = None,
    ) -> None:
        """Writes networks as they are after ``metadata["nimg"]`` images, in the background; a picture of the first.

        Args:
            metadata: Of all of them.
            networks: By the end of their name: each with metadata of its own.
            picture: Draws the first; None does not.
        """
        start = self.folder / "snapshots" / f"network-{metadata['nimg']:010d}"
        if picture is not None:
            picture(next(iter(networks.values()))[0], start.with_name(f"{start.name}.png"))
        files = [
            (copied_to_cpu(net.state_dict()), start.with_name(f"{start.name}{end}.safetensors"), {**metadata, **more})
            for end, (net, more) in networks.items()
        ]

        def write() -> None:
            for copies, path, record in files:
                write_state_dict(copies(), path, record)

        self._writer.do(write)

    @of_the_first_rank
    def save(self, record: Mapping[str, Any], changing: NamedTensors, unchanging: NamedTensors) -> None:
        """Keeps a state in the background, see :meth:`StateStore.save`.

        Args:
            record: Plain JSON values that nobody changes from now on.
            changing: Tensors that training goes on to change.
            unchanging: Tensors on the CPU that no longer change; written as they are.
        """
        # At most a snapshot stands before it: copies of two states never wait side by side for a slow disk.
        self._writer.wait(pending=1)
        copies = copied_to_cpu(changing)
        self._writer.do(lambda: self._store.save(record, {**copies(), **unchanging}))

    @of_the_first_rank
    def publish(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes all results from the last state; the network comes last, so it vouches for the rest.

        Args:
            record: Record of the finished state.
            tensors: The network to publish, as for :func:`write_network`.
        """
        self.write_logs(record["train"], record["evaluations"], final=True)
        write_network(self.network, record["metadata"], tensors)

    def publish_again(self, stage: str) -> None:
        """Writes all results of a finished run from its kept state, and says so."""
        assert self.kept is not None
        say(f"[{stage}] already trained; writing its files")
        tensors = {name.removeprefix("best/"): tensor for name, tensor in self.kept.tensors.items()}
        try:
            check_architecture(self.kept.path, self.kept.record["metadata"], tensors)
            self.publish(self.kept.record, tensors)
        except (KeyError, RuntimeError):
            raise other_tensors(self.kept.path) from None


def _move(snapshot: Path, folder: Path) -> None:
    """Moves a snapshot, with the picture beside it."""
    picture = "-".join(snapshot.stem.split("-")[:2]) + ".png"
    for path in (snapshot.with_name(picture), snapshot):
        if path.exists():
            path.rename(folder / path.name)
