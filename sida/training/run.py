"""A run: its settings, and the files in its folder (network, logs, states, snapshots)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from sida.config.families import IMAGE_OPTIONS, check_images
from sida.config.recipe import RunConfig
from sida.config.settings import from_mapping, load_spec
from sida.data.dataset import Dataset
from sida.errors import UserError, say, settings_in
from sida.files.atomic import sweep_temporaries
from sida.networks.file import read_metadata, write_state_dict
from sida.training.averages import check_architecture, write_network
from sida.training.background import BackgroundWriter, NamedTensors, copied_to_cpu
from sida.training.logs import Logs
from sida.training.processes import ALONE, Ranks
from sida.training.state import KeptState, StateStore, is_record, other_tensors

P = ParamSpec("P")
AnyConfig = TypeVar("AnyConfig", bound=RunConfig)
#: Function that draws images of a network to a file.
DrawPicture = Callable[[torch.nn.Module, Path], None]
#: Folder of runs without an explicit folder; no preset has this name.
LOCAL_RESULTS = Path("results") / "local"


def read_config(
    cls: type[AnyConfig],
    config: AnyConfig | Mapping[str, Any] | str | os.PathLike[str],
    outdir: str | os.PathLike[str] | None,
    where: str,
) -> tuple[AnyConfig, str | os.PathLike[str] | None]:
    """Reads the settings and folder of a run from the arguments of a Python call.

    Args:
        cls: Class of the settings.
        config: Settings; or a mapping of them, or a YAML or JSON file with one, which may have ``outdir``: that key
            does not decide the result.
        outdir: Folder; takes precedence over the key.
        where: Place named in errors.

    Returns:
        The settings, and the folder or None.

    Raises:
        UserError: A setting is wrong.
    """
    if isinstance(config, cls):
        return config, outdir
    if isinstance(config, (str, os.PathLike)):
        config = load_spec(os.fspath(config), where)
    assert isinstance(config, Mapping)
    named = config.get("outdir")
    if named is not None and not (isinstance(named, (str, os.PathLike)) and str(named)):
        raise UserError(f"{where}.outdir", f"must be the path of a folder, got {named!r}", "remove it or name one")
    settings = from_mapping(cls, {key: value for key, value in config.items() if key != "outdir"}, where)
    return settings, named if outdir is None else outdir


def run_folder(outdir: str | os.PathLike[str] | None, kind: str, name: str) -> Path:
    """Returns the folder of a run: ``outdir``, or else ``results/local/<kind>/<name>``.

    Args:
        outdir: Folder, or None.
        kind: ``teachers`` or ``students``.
        name: Name of the run.
    """
    return LOCAL_RESULTS / kind / name if outdir is None else Path(outdir)


def check_shapes(net: torch.nn.Module, dataset: Dataset, where: str) -> None:
    """Checks that a network fits the images and classes of a data set.

    Raises:
        UserError: Resolution, channels or classes differ.
    """
    (channels, resolution, _), name = dataset.network_shape, dataset.name
    wanted = {"img_resolution": resolution, "img_channels": channels, "label_dim": dataset.label_dim, "name": name}
    with settings_in(where):
        check_images({option: getattr(net, option) for option in IMAGE_OPTIONS}, wanted)


def of_the_first_rank(write: Callable[Concatenate[RunFiles, P], None]) -> Callable[Concatenate[RunFiles, P], None]:
    """Decorator of a method that writes: it does nothing on ranks other than 0."""

    @functools.wraps(write)
    def written_once(files: RunFiles, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if files.ranks.rank == 0:
            write(files, *args, **kwargs)

    return written_once


class RunFiles:
    """Folder of a run: reads and writes its files while holding its lock.

    States and snapshots are copied at once and written in the background, one after the other. :meth:`check`, which a
    loop calls often, and the next call that writes raise the error of a failed write.

        with RunFiles(folder, digest) as files:
            if not files.finished:
                ...

    Args:
        folder: The run's folder.
        digest: See :func:`sida.training.identity.run_digest`.
        set_aside: Start a new run and keep the state of an unfinished run with another configuration.
        ranks: Processes that train together: rank 0 reads and writes, and passes on what it reads.
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
        self._store = StateStore(folder / "state", digest, set_aside, is_record)
        self._writer = BackgroundWriter()
        self._logs = Logs(folder, "tensorboard" in loggers)

    def __enter__(self) -> RunFiles:
        """Waits for the lock and reads the state.

        Raises:
            UserError: See :meth:`StateStore.load`; the folder does not change.
        """
        found = self.ranks.from_first(self._find)
        if found is not None:
            record, path = found
            tensors = self.ranks.tensors_from_first(None if self.kept is None else self.kept.tensors)
            self.kept = KeptState(record, tensors, path)
        return self

    def _find(self) -> tuple[dict[str, Any], Path] | None:
        """Locks the folder and reads its state; returns the state's record and path."""
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
        """Whether the background writer has pending work."""
        return self._writer.busy

    def check(self) -> None:
        """Raises the error of a failed background write.

        Raises:
            UserError: The disk is full or the folder has been removed; earlier states are intact.
        """
        self._writer.check()

    def wait(self) -> None:
        """Waits until everything is written; raises the errors of :meth:`check`."""
        self._writer.wait()

    @property
    def finished(self) -> bool:
        """Whether the training is complete."""
        return self.kept is not None and bool(self.kept.record["finished"])

    def take_kept(self) -> KeptState:
        """Returns the state from which to resume and drops this object's reference, which frees its tensors later."""
        assert self.kept is not None
        kept, self.kept = self.kept, None
        return kept

    def _sweep(self) -> None:
        """Removes unfinished files of killed processes."""
        for folder in (self.folder, self.folder / "state", self.folder / "snapshots"):
            sweep_temporaries(folder)

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

    @of_the_first_rank
    def log(self, name: str, record: dict[str, Any]) -> None:
        """Adds a record to ``train.jsonl`` or ``evaluations.jsonl``."""
        self._logs.add(name, record)

    @of_the_first_rank
    def write_logs(
        self, train: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], final: bool = False
    ) -> None:
        """Writes ``train.jsonl`` and ``evaluations.jsonl`` anew; ``final`` marks that no record follows."""
        self._logs.restart(train, evaluations, final)

    @of_the_first_rank
    def write_snapshot(
        self,
        metadata: Mapping[str, Any],
        networks: Mapping[str, tuple[torch.nn.Module, Mapping[str, Any]]],
        picture: DrawPicture | None = None,
    ) -> None:
        """Writes the present networks in the background, after ``metadata["nimg"]`` images, and draws the first.

        Args:
            metadata: Metadata of all networks.
            networks: Networks with their further metadata, by the suffix of their file names.
            picture: Draws images of the first network; None draws none.
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
        """Writes a state in the background, see :meth:`StateStore.save`.

        Args:
            record: Plain JSON values; the caller must not change them afterwards.
            changing: Tensors that training continues to change; copied first.
            unchanging: Tensors on the CPU that no longer change; written without a copy.
        """
        # Waits until at most one snapshot is pending, so that copies of two states never wait for a slow disk together.
        self._writer.wait(pending=1)
        copies = copied_to_cpu(changing)
        self._writer.do(lambda: self._store.save(record, {**copies(), **unchanging}))

    @of_the_first_rank
    def publish(self, record: Mapping[str, Any], tensors: NamedTensors) -> None:
        """Writes all results from the last state; the network comes last, so its presence means that all are written.

        Args:
            record: Record of the finished state.
            tensors: Network to publish, as for :func:`write_network`.
        """
        self.write_logs(record["train"], record["evaluations"], final=True)
        write_network(self.network, record["metadata"], tensors)

    def publish_again(self, stage: str) -> None:
        """Writes all results of a finished run from its state, and reports it."""
        assert self.kept is not None
        say(f"[{stage}] already trained; writing its files")
        tensors = {name.removeprefix("best/"): tensor for name, tensor in self.kept.tensors.items()}
        try:
            check_architecture(self.kept.path, self.kept.record["metadata"], tensors)
            self.publish(self.kept.record, tensors)
        except (KeyError, RuntimeError):
            raise other_tensors(self.kept.path) from None


def _move(snapshot: Path, folder: Path) -> None:
    """Moves a snapshot and its picture."""
    picture = "-".join(snapshot.stem.split("-")[:2]) + ".png"
    for path in (snapshot.with_name(picture), snapshot):
        if path.exists():
            path.rename(folder / path.name)
