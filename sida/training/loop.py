"""Training loop of teachers and students: steps, logs, evaluations, snapshots, states, stop and resume."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sida.config.feature_networks import UNKNOWN
from sida.config.recipe import RunConfig, StudentConfig
from sida.config.settings import from_mapping, load_spec
from sida.data import Dataset, load_dataset
from sida.data.dataset import Sketch, join_sketches, read_sketch
from sida.errors import PassingError, Progress, UserError, say
from sida.machine import code_version, device_name, peak_memory, prepare_process, take_device
from sida.networks import architecture
from sida.sampling.generate import NotFiniteError
from sida.sampling.store import Pictures
from sida.training import logs
from sida.training.iteration import Trainer
from sida.training.logs import TickMeter
from sida.training.optimizer import NamedTensors
from sida.training.processes import Interruption, RankLostError, Ranks, StopRequest, joined
from sida.training.run_folder import BEST, RunFolder, copied
from sida.training.schedule import points_passed

AnyConfig = TypeVar("AnyConfig", bound=RunConfig)
#: Folder of runs without an explicit folder; no preset has this name.
LOCAL_RESULTS = Path("results") / "local"
_TOO_LARGE = (
    "set checkpointing to true (the run resumes to the same numbers), or give a smaller batch_gpu"
    " (docs/differences.tsv, 20) or batch_size, a smaller network or a larger card"
)


@dataclasses.dataclass
class RunRecord:
    """Everything that a state keeps of a run, apart from tensors.

    Attributes:
        nimg: Images seen.
        snapshot: Images seen at the last snapshot.
        train: Records of ``train.jsonl``.
        evaluations: Records of ``evaluations.jsonl``.
        best: Images seen and selection value of the result so far.
        meter: Sums of the present tick.
        images: Sketch of the images that the run has seen.
        origins: Devices and code versions that trained the network, by their key in its header.
        metadata: Header of the network of a finished run.
        finished: Whether the training is complete.
    """

    nimg: int = 0
    snapshot: int = 0
    train: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None
    meter: dict[str, Any] | None = None
    images: Any = None
    origins: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    finished: bool = False


class TrainingLoop:
    """Runs a trainer from a stored state, or from its beginning, to its end.

    Everything that decides the result is a function of images seen, so a resumed run ends with the same bytes as an
    uninterrupted run (apart from times in ``train.jsonl`` and ``evaluations.jsonl``).

    Args:
        trainer: Trainer with its batches.
        config: Settings that every training has.
        stage: Label of progress lines.
        files: The run's folder, with the state from which to resume.
        metadata: Provenance of the final network; the loop adds ``nimg``, ``last_nimg`` and the selection value.
    """

    def __init__(
        self, trainer: Trainer, config: RunConfig, stage: str, files: RunFolder, metadata: Mapping[str, Any]
    ) -> None:
        self.trainer, self.config, self.stage, self.files = trainer, config, stage, files
        self.metadata, self.ranks, self.total = dict(metadata), files.ranks, config.total_kimg * 1000
        self.picture = Pictures(trainer.sampler, config.pictures, config.device)
        self.publish_diverged = config.on_divergence == "publish"
        self.record = RunRecord(
            images=self.metadata.get("images"),
            origins={name: [str(self.metadata[name])] for name in ("device", "code_version")},
        )
        self.best_tensors: NamedTensors = {}  # by their names in a state, on rank 0, which writes them
        self.meter = TickMeter(self.ranks)
        self.ended = False  # whether the log ended the run early
        # Time of the last state, and its number of images.
        self._saved, self._saved_nimg = time.monotonic(), 0

    def run(self) -> None:
        """Trains to the end and writes the results.

        Raises:
            UserError: The run has too many NaNs or too little memory, or an evaluation returns no number.
            KeyboardInterrupt: The process received SIGINT, or (Preempted) SIGTERM or SIGUSR1; the state is written.
        """
        if self.files.state is not None:
            self._resume()
        # Removes records that a killed process logged after this state; the run will write them again.
        self.files.write_logs(vars(self.record))
        progress = Progress(self.stage, self.total, done=self.record.nimg)
        with Interruption() as interruption:
            self.meter.start()
            self._events(interruption)
            while not self._at_end():
                self._iterate()
                self._events(interruption)
                self._show(progress)
            self._finish()
            self._show(progress, force=True)

    def _iterate(self) -> None:
        with self.trainer.faults():
            try:
                record = self.trainer.iteration(self.record.nimg)
            except torch.OutOfMemoryError:
                raise PassingError("", f"out of memory at image {self.record.nimg:,}", _TOO_LARGE) from None
        self.meter.add(record, self.config.batch_size)
        self.record.nimg += self.config.batch_size

    # Events between iterations. The record says which have taken place, so that a state written between two of them
    # (for example after the log record and before the evaluation) resumes exactly there.

    def _events(self, interruption: Interruption) -> None:
        self.files.check()
        config, record, plan = self.config, self.record, self.trainer.evaluation_points
        self._tick_if_due()
        last = record.evaluations[-1]["nimg"] if record.evaluations else None
        if evaluated := plan is not None and self._due(last, plan.every_kimg, plan.per_decade):
            self._evaluate(interruption)
            if self._at_end():
                self._tick_if_due()  # the last record of a run that ends here
        if snapshot := self._due(record.snapshot, config.snapshot_kimg):
            metadata = {**self.metadata, "nimg": record.nimg, "last_nimg": record.nimg}
            self.files.write_snapshot(metadata, self.trainer.snapshots, self._draw)
            record.snapshot = record.nimg
        save = (evaluated or snapshot or self._state_is_old()) and not self._at_end()
        request = self.ranks.agree(max(interruption.request, StopRequest.SAVE if save else StopRequest.NONE))
        if request >= StopRequest.SAVE:
            self._save()
        if request > StopRequest.SAVE:
            self.files.wait()
            # If a rank ended before rank 0 has written, all ranks would end.
            self.ranks.agree(request).enforce()

    def _state_is_old(self) -> bool:
        if self.ranks.rank or self.record.nimg == self._saved_nimg:
            return False
        if not self.config.state_minutes:
            return True
        # While a slow disk is still writing, the next state waits, not the run.
        return not self.files.busy and time.monotonic() - self._saved >= self.config.state_minutes * 60

    def _due(self, last: int | None, every_kimg: float | None, per_decade: int | None = None) -> bool:
        nimg = self.record.nimg
        if every_kimg is None or last == nimg:
            return False
        points = (every_kimg * 1000, per_decade)
        return last is None or self._at_end() or points_passed(nimg, *points) > points_passed(last, *points)

    def _at_end(self) -> bool:
        return self.ended or self.record.nimg >= self.total

    def _reason_to_end(self) -> str | None:
        """Reason to end early: a function of the log, so that a resumed run ends at the same image.

        Raises:
            UserError: The run is hopeless, and no result is wanted.
        """
        train, plan = self.record.train, self.trainer.evaluation_points
        if train and (fault := logs.hopeless(train[-1], self.trainer.max_nan_share)):
            if not self.publish_diverged:
                remedy = "lower lr or the loss weights, or take it as it is with on_divergence: publish"
                raise UserError(self.stage, fault, remedy)
            return f"{fault} (on_divergence: publish)"
        if plan is not None and plan.patience is not None:
            counted = [value for nimg, value in logs.selected(self.record.evaluations) if nimg > self.trainer.begun]
            if logs.since_best(counted, plan.min_improvement) >= plan.patience:
                return f"{plan.patience} evaluations after the best one that counts (patience)"
        return None

    def _judge(self, faults: Sequence[str]) -> None:
        """Reports that the run diverges or ends here, or stops the run."""
        for fault in faults:
            line = f"{self.stage}: diverging at image {self.record.nimg:,}: {fault}"
            if self.config.on_divergence == "stop":
                remedy = "lower lr or the loss weights, or resume from the last kept state with on_divergence: say"
                raise UserError("", line, remedy)
            say(line)
        reason = self._reason_to_end()
        if reason and not self.ended:
            say(f"[{self.stage}] ends at image {self.record.nimg:,}: {reason}")
        self.ended = reason is not None

    def _tick_if_due(self) -> None:
        if not self._due(self.record.train[-1]["nimg"] if self.record.train else 0, self.config.tick_kimg):
            return
        sizes = {name: network.weight_rms() for name, network in self.trainer.networks.items()}
        values = {**self.meter.finish(), "weight_rms": sizes, **peak_memory(self.ranks.world_size)}
        self._log("train", {"nimg": self.record.nimg, **values})
        self._judge(logs.unhealthy(self.record.train))

    def _log(self, name: str, values: dict[str, Any]) -> None:
        getattr(self.record, name).append(values)
        self.files.log(name, values)

    def _evaluate(self, interruption: Interruption) -> None:
        self.meter.flush()
        start, record = time.perf_counter(), self.record
        assert self.trainer.evaluate is not None
        try:
            result = self.trainer.evaluate(self.trainer.ema.net, interruption, self.ranks)
        except NotFiniteError:
            if not self.publish_diverged or not record.evaluations:
                raise
            result = logs.without_numbers(record.evaluations[-1])
        except (KeyboardInterrupt, RankLostError):
            # The state's tick is without the time of the evaluation, which is repeated.
            self.meter.start()
            # Between iterations the state is complete, also without the other processes.
            self._save()
            self.files.wait()
            raise
        key, value = logs.selection(result)
        finite = isinstance(value, float) and math.isfinite(value)
        if not isinstance(value, float) or not (finite or self.publish_diverged):
            raise UserError(self.stage, f"the evaluation at image {record.nimg:,} gave {key} = {value}, not a number")
        # JSON has no NaN; a number that is not finite is logged as null.
        values = {"nimg": record.nimg, **logs.without_nan(result), "seconds": time.perf_counter() - start}
        self._log("evaluations", values)
        if finite and (record.best is None or value < record.best.get(key, math.inf)):
            self._keep({"nimg": record.nimg, key: value})
        self._judge(logs.rising(logs.selected(record.evaluations), key))
        self.meter.start()

    def _draw(self, net: torch.nn.Module, path: Path) -> None:
        """Draws the picture of a snapshot; one that diverged, and is wanted nevertheless, has none."""
        try:
            self.picture(net, path)
        except NotFiniteError:
            if not self.publish_diverged:
                raise

    def _keep(self, best: dict[str, Any]) -> None:
        """Makes the present average the run's result."""
        self.record.best = best
        if not self.ranks.rank:
            self.best_tensors = copied({f"{BEST}{name}": value for name, value in self.trainer.ema.state().items()})

    def _show(self, progress: Progress, force: bool = False) -> None:
        record = self.record
        metrics = dict([logs.selection(record.evaluations[-1])]) if record.evaluations else {}
        values = metrics | (record.train[-1]["losses"] if record.train else {})
        facts = {name: value for name, value in values.items() if value is not None}
        progress.update(min(record.nimg, self.total), facts, force)

    def _save(self) -> None:
        self.record.meter = self.meter.state()
        self.files.save(dataclasses.asdict(self.record), self.trainer.state(), self.best_tensors)
        self._saved, self._saved_nimg = time.monotonic(), self.record.nimg

    def _resume(self) -> None:
        # The files' reference would keep the tensors in memory.
        state, self.files.state = self.files.state, None
        assert state is not None
        here, self.record = self.record.origins, RunRecord(**state.record)
        # Every machine and every code that trained the network is named.
        for name, values in self.record.origins.items():
            values[:] = dict.fromkeys([*values, *here[name]])
            self.metadata[name] = " and ".join(values)
        self._saved_nimg = self.record.nimg
        self.ended = self._reason_to_end() is not None
        assert self.record.meter is not None
        self.meter.load(self.record.meter)
        best = {name: tensor for name, tensor in state.tensors.items() if name.startswith(BEST)}
        self.trainer.load({name: tensor for name, tensor in state.tensors.items() if name not in best})
        if not self.ranks.rank:
            self.best_tensors = best
            say(f"[{self.stage}] resumes at {self.record.nimg:,} of {self.total:,.0f} images")

    def _finish(self) -> None:
        """Writes a small last state, from which the results can be written again, and then the results."""
        if not self.publish_diverged and (fault := self.trainer.lost(self.record.train)):
            self._save()
            remedy = "lower lr, or take it as it is with on_divergence: publish"
            raise UserError(self.stage, f"has diverged and is not published: {fault}", remedy)
        if self.record.best is None:
            self._keep({"nimg": self.record.nimg})
        metadata = {**self.metadata, **(self.record.best or {}), "last_nimg": self.record.nimg}
        self.record.metadata, self.record.finished = metadata, True
        self.files.save(vars(self.record), {}, self.best_tensors)
        self.files.wait()
        self.files.publish(vars(self.record), self.best_tensors)


@dataclasses.dataclass(frozen=True)
class Run(Generic[AnyConfig]):
    """A training that is about to start: its settings are read, its data set and device are open.

    Attributes:
        config: Settings.
        folder: Folder of the run.
        device: Device of this process.
        dataset: Data set.
    """

    config: AnyConfig
    folder: Path
    device: torch.device
    dataset: Dataset

    @classmethod
    def from_settings(
        cls,
        config_class: type[AnyConfig],
        config: AnyConfig | Mapping[str, Any] | str | os.PathLike[str],
        outdir: str | os.PathLike[str] | None,
        where: str,
    ) -> Run[AnyConfig]:
        """Reads the settings and prepares this process.

        Args:
            config_class: Class of the settings.
            config: Settings; or a mapping of them, or a YAML or JSON file with one, which may have ``outdir``: that key
                does not decide the result.
            outdir: Folder; takes precedence over the key. Without both it is ``results/local/teachers/<name>`` or
                ``results/local/students/<name>``.
            where: Place named in errors.

        Raises:
            UserError: A setting is wrong, or names a device that this machine lacks.
        """
        if isinstance(config, (str, os.PathLike)):
            config = load_spec(os.fspath(config), where)
        if isinstance(config, Mapping):
            settings = dict(config)
            folder = settings.pop("outdir", None)
            if folder is not None and not (isinstance(folder, (str, os.PathLike)) and str(folder)):
                raise UserError(f"{where}.outdir", f"must be the path of a folder, got {folder!r}", "remove it")
            outdir = folder if outdir is None else outdir
            config = from_mapping(config_class, settings, where)
        device = take_device(config.device, where)
        prepare_process(config.threads)
        shelf = LOCAL_RESULTS / ("students" if isinstance(config, StudentConfig) else "teachers")
        dataset = load_dataset(config.dataset, f"{where}.dataset")
        return cls(config, Path(shelf / config.name if outdir is None else outdir), device, dataset)

    def train(
        self,
        method: str,
        digest: str,
        start: Callable[[Ranks], Trainer],
        parents: Mapping[str, str | None] | None = None,
        set_aside: bool = False,
        sketches: Iterable[Sketch | None] = (),
        known: Mapping[str, Any] | None = None,
    ) -> Path:
        """Trains to the end, or writes the results of a finished run again.

        Args:
            method: Name of the method, or ``teacher``.
            digest: Digest of everything that decides the result.
            start: Makes the trainer, once the folder is locked and the run is known to be unfinished.
            parents: SHA-256 of the networks from which a student starts.
            set_aside: See :class:`sida.training.run_folder.RunFolder`.
            sketches: Sketches of the images that the parents have seen; None is unknown.
            known: Further facts for the header of the network's file.

        Returns:
            Path of the network.
        """
        config, code = self.config, code_version()
        stage = f"{'teacher' if method == 'teacher' else 'distill'} {config.name}"
        with (
            # on_divergence is not in the digest, but ranks that differ in it would end differently.
            joined(self.device, (code, digest, config.on_divergence)) as ranks,
            RunFolder(self.folder, digest, set_aside, ranks) as files,
        ):
            if files.state is not None and files.state.record["finished"]:
                say(f"[{stage}] already trained; writing its files")
                files.publish(*files.state)
                return files.network
            trainer = start(ranks)
            trainer.join(ranks)
            # A resumed run need not read all images again.
            stored_sketch = None if files.state is None else read_sketch(files.state.record["images"])
            sketch = stored_sketch or ranks.from_first(lambda: join_sketches([self.dataset.sketch, *sketches]))
            # For the network's file, without times and paths: equal runs give equal files.
            metadata = {
                "name": config.name,
                "method": method,
                "network": architecture(trainer.ema.net),
                "dataset": {**self.dataset.describe(), "sha256": self.dataset.sha256},
                **({} if sketch is None else {"images": sketch.record()}),
                # The exposure of what learns from latents of an encoder that nobody states.
                **({"saw": UNKNOWN} if self.dataset.foreign_encoder else {}),
                "seed": config.seed,
                "parents": dict(parents or {}),
                **(known or {}),
                "code_version": code,
                "device": f"{ranks.world_size} × " * (ranks.world_size > 1) + device_name(str(self.device)),
                "config_sha256": digest,
                **trainer.provenance,
            }
            TrainingLoop(trainer, config, stage, files, metadata).run()
        return files.network
