"""Training loop of teachers and students: steps, logs, evaluations, snapshots, states, stop and resume."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sida.config.recipe import EvaluationSettings, RunConfig, StudentConfig
from sida.config.samplers import Sampler
from sida.config.settings import from_mapping, load_spec
from sida.data import Dataset, load_dataset
from sida.data.dataset import Sketch, join_sketches, read_sketch
from sida.errors import Progress, UserError, say
from sida.machine import code_version, peak_memory, prepare_process
from sida.networks import architecture
from sida.networks.unet import blocks_of
from sida.sampling.store import Pictures
from sida.training import logs
from sida.training.evaluation import Evaluation
from sida.training.logs import IterationRecord, LogRecords, TickMeter
from sida.training.optimizer import Average, NamedTensors, OptimizedNetwork, Resumable
from sida.training.processes import ALONE, Interruption, Ranks, StopRequest, joined, own_device
from sida.training.run import OTHER_STATE, RunFiles, other_state
from sida.training.schedule import points_passed

T = TypeVar("T")
AnyConfig = TypeVar("AnyConfig", bound=RunConfig)
#: Folder of runs without an explicit folder; no preset has this name.
LOCAL_RESULTS = Path("results") / "local"


class Trainer(abc.ABC):
    """Networks with their optimizers and averages, whose state is everything that a resumed run needs.

    Args:
        networks: Optimized networks by name.
        averages: Averages of networks by name; the first is the product of the run.
        kept: Further parts by name whose state a resumed run needs.

    Attributes:
        ranks: Processes that train together.
        repeatable: Whether a step that ran out of memory can be done again: its losses change nothing but gradients and
            buffers, and exchange nothing with other processes.
        sampler: Sampler of the pictures.
        evaluate: Measures the product; the average with the lowest selection value is the run's result. None makes the
            last average the result.
        begun: Images after which all phases of the method have begun, and evaluations count for ``patience``.
    """

    sampler: Sampler
    repeatable = True
    evaluate: Evaluation | None = None
    begun = 0.0

    def __init__(
        self,
        networks: Mapping[str, OptimizedNetwork],
        averages: Mapping[str, Average],
        kept: Mapping[str, Resumable] | None = None,
    ) -> None:
        self.networks, self.averages = dict(networks), dict(averages)
        self._parts: dict[str, Resumable] = {**networks, **averages, **(kept or {})}
        # Some change with each pass: ratios and spectral norms of discriminators.
        self._buffers = [value for network in networks.values() for value in network.net.buffers()]
        self.ranks = ALONE

    @abc.abstractmethod
    def iteration(self, nimg: int) -> IterationRecord:
        """Does one step after ``nimg`` images."""

    @property
    def ema(self) -> Average:
        """Averaged network, the product of the run."""
        return next(iter(self.averages.values()))

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """Networks of a snapshot, the product first, with additions to the header, by the suffix of file names."""
        return {"": (self.ema.net, {})}

    @property
    def provenance(self) -> dict[str, Any]:
        """Metadata of the product that only this kind of training has."""
        return {}

    def lost(self, ticks: LogRecords) -> str | None:
        """Returns the reason to reject the last network, given the log's records, or None."""
        return None

    def join(self, ranks: Ranks) -> None:
        """Joins several processes that train together; call it before the first iteration."""
        self.ranks = ranks
        for network in self.networks.values():
            network.ranks = ranks

    def attempt(self, passes: Callable[[], T], nimg: int) -> T:
        """Does the forward and backward passes of a step, and once more if they run out of memory.

        Args:
            passes: Adds gradients to the networks.
            nimg: Images seen before the step.
        """
        before = [value.clone() for value in self._buffers]
        with contextlib.suppress(torch.OutOfMemoryError):
            return passes()
        # Only here has the error released the memory of the first attempt.
        self.save_memory(nimg)
        for value, old in zip(self._buffers, before):
            value.copy_(old)
        return passes()

    def save_memory(self, nimg: int) -> None:
        """Drops a step's gradients; from here on networks compute their blocks again in the backward pass.

        The numbers stay the same to the last bit.

        Raises:
            UserError: The step cannot be repeated, or the networks already do so, or have no blocks.
        """
        fault = f"out of memory at image {nimg:,}"
        blocks = [block for network in self.networks.values() for block in blocks_of(network.net)]
        if not self.repeatable or all(block.checkpointed for block in blocks):
            ways = "set checkpointing to true, or give a smaller batch_gpu (docs/differences.md, 20)"
            raise UserError("", fault, f"{ways} or batch_size, a smaller network or a larger card")
        for network in self.networks.values():
            network.drop_gradient()
        for block in blocks:
            block.checkpointed = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"{fault}: networks compute blocks again in the backward pass from here on; the numbers stay the same")

    def state(self) -> NamedTensors:
        """Returns the state with the keys ``network/name``, as references and without frozen networks."""
        parts = self._parts.items()
        return {f"{part}/{name}": value for part, owner in parts for name, value in owner.state().items()}

    def load(self, state: NamedTensors) -> None:
        """Restores a :meth:`state`."""
        for part, owner in self._parts.items():
            prefix = f"{part}/"
            owner.load({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})


class TrainingLoop:
    """Runs a trainer from a stored state, or from its beginning, to its end.

    Everything that decides the result is a function of images seen, so a resumed run ends with the same bytes as an
    uninterrupted run (apart from times in ``train.jsonl`` and ``evaluations.jsonl``).

    Args:
        trainer: Trainer with its batches.
        config: Settings of a teacher, or of a student, which may have evaluations.
        stage: Label of progress lines.
        files: The run's folder, with the state from which to resume.
        metadata: Provenance of the final network; the loop adds ``nimg``, ``last_nimg`` and the selection value.
    """

    def __init__(
        self, trainer: Trainer, config: RunConfig, stage: str, files: RunFiles, metadata: Mapping[str, Any]
    ) -> None:
        self.trainer, self.config, self.stage, self.files = trainer, config, stage, files
        self.metadata, self.ranks, self.total = dict(metadata), files.ranks, config.total_kimg * 1000
        self.picture = Pictures(trainer.sampler, config.pictures, config.device)
        self.max_nan_share, self.evaluation = 1.0, None
        # Arguments of `points_passed`.
        self.points: dict[str, tuple[float, int | None]] = {"tick": (config.tick_kimg * 1000, None)}
        if config.snapshot_kimg is not None:
            self.points["snapshot"] = (config.snapshot_kimg * 1000, None)
        if isinstance(config, StudentConfig):
            self.max_nan_share = config.max_nan_share
            if config.evaluation is not None:
                self.evaluation = from_mapping(EvaluationSettings, config.evaluation, "evaluation")
                self.points["evaluation"] = (self.evaluation.every_kimg * 1000, self.evaluation.per_decade)
        self.publish_diverged = config.on_divergence == "publish"
        self.nimg = 0
        # Images seen at the last log record, evaluation, snapshot and state.
        self.done: dict[str, int | None] = {"tick": 0, "evaluation": None, "snapshot": 0}
        self.train: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_tensors: NamedTensors = {}  # on rank 0, which writes them
        self.ended = False  # whether the log ended the run early
        self.meter = TickMeter(self.ranks)
        # Time of the last state, and its number of images.
        self._saved, self._saved_nimg = time.monotonic(), 0

    def run(self) -> None:
        """Trains to the end and writes the results.

        Raises:
            UserError: The run has too many NaNs, or an evaluation returns no number.
            KeyboardInterrupt: The process received SIGINT, or (Preempted) SIGTERM or SIGUSR1; the state is written.
        """
        if self.files.kept is not None:
            self._resume()
        # Removes records that a killed process logged after this state; the run will write them again.
        self.files.write_logs(self.train, self.evaluations)
        progress = Progress(self.stage, self.total, done=self.nimg)
        with Interruption() as interruption:
            self.meter.start()
            self._events(interruption)
            while not self._at_end():
                self.meter.add(self.trainer.iteration(self.nimg), self.config.batch_size)
                self.nimg += self.config.batch_size
                self._events(interruption)
                self._show(progress)
            self._finish()
            self._show(progress, force=True)

    # Events between iterations. Each event remembers its last number of images, so that a state written between two
    # events (for example after the log record and before the evaluation) resumes exactly there.

    def _events(self, interruption: Interruption) -> None:
        self.files.check()
        save = False
        if self._due("tick"):
            self._tick()
        if self._due("evaluation"):
            self._evaluate(interruption)
            if self._at_end() and self._due("tick"):
                # Writes the last record of a run that ends here.
                self._tick()
            save = True
        if self._due("snapshot"):
            metadata = {**self.metadata, "nimg": self.nimg, "last_nimg": self.nimg}
            self.files.write_snapshot(metadata, self.trainer.snapshots, self.picture)
            self.done["snapshot"], save = self.nimg, True
        save = (save or self._state_is_old()) and not self._at_end()
        request = self.ranks.agree(max(interruption.request, StopRequest.SAVE if save else StopRequest.NONE))
        if request >= StopRequest.SAVE:
            self._save()
        if request > StopRequest.SAVE:
            self._end(request)

    def _end(self, request: StopRequest) -> None:
        self.files.wait()
        # If a rank ended before rank 0 has written, all ranks would end.
        self.ranks.agree(request).enforce()

    def _state_is_old(self) -> bool:
        if self.ranks.rank or self.nimg == self._saved_nimg:
            return False
        if not self.config.state_minutes:
            return True
        # A slow disk does not delay the run.
        return not self.files.busy and time.monotonic() - self._saved >= self.config.state_minutes * 60

    def _due(self, event: str) -> bool:
        last, points = self.done[event], self.points.get(event)
        if points is None or last == self.nimg:
            return False
        return last is None or self._at_end() or points_passed(self.nimg, *points) > points_passed(last, *points)

    def _at_end(self) -> bool:
        return self.ended or self.nimg >= self.total

    def _reason_to_end(self) -> str | None:
        """Reason to end early: a function of the log, so that a resumed run ends at the same image."""
        if self.publish_diverged and self.train and (fault := logs.hopeless(self.train[-1], self.max_nan_share)):
            return f"{fault} (on_divergence: publish)"
        if self.evaluation is not None and self.evaluation.patience is not None:
            values = [value for nimg, value in logs.selected(self.evaluations) if nimg > self.trainer.begun]
            if logs.since_best(values, self.evaluation.min_improvement) >= self.evaluation.patience:
                return f"{self.evaluation.patience} evaluations after the best one that counts (patience)"
        return None

    def _judge(self, faults: Sequence[str]) -> None:
        """Reports that the run diverges or ends here, or stops the run."""
        for fault in faults:
            line = f"{self.stage}: diverging at image {self.nimg:,}: {fault}"
            if self.config.on_divergence == "stop":
                ways = "lower lr or the loss weights, or resume from the last kept state with on_divergence: say"
                raise UserError("", line, ways)
            say(line)
        reason = self._reason_to_end()
        if reason and not self.ended:
            say(f"[{self.stage}] ends at image {self.nimg:,}: {reason}")
        self.ended = reason is not None

    def _tick(self) -> None:
        values = self.meter.finish()
        self.meter.start()
        self.done["tick"] = self.nimg
        sizes = {name: network.weight_rms() for name, network in self.trainer.networks.items()}
        record = {"nimg": self.nimg, **values, "weight_rms": sizes, **peak_memory(self.ranks.world_size)}
        fault = logs.hopeless(record, self.max_nan_share)
        if fault and not self.publish_diverged:
            remedy = "lower lr or the loss weights, or take it as it is with on_divergence: publish"
            raise UserError(self.stage, fault, remedy)
        self.train.append(record)
        self.files.log("train", record)
        self._judge(logs.unhealthy(self.train))

    def _evaluate(self, interruption: Interruption) -> None:
        self.meter.pause()
        start = time.perf_counter()
        assert self.trainer.evaluate is not None
        result = self.trainer.evaluate(self.trainer.ema.net, interruption, self.ranks)
        if isinstance(result, StopRequest):
            self._save()
            return self._end(result)
        key, value = logs.selection(result)
        finite = isinstance(value, float) and math.isfinite(value)
        if not isinstance(value, float) or not (finite or self.publish_diverged):
            raise UserError(self.stage, f"the evaluation at image {self.nimg:,} gave {key} = {value}, not a number")
        # JSON has no NaN; a figure that is not a number is logged as null.
        record = {"nimg": self.nimg, **logs.without_nan(result), "seconds": time.perf_counter() - start}
        self.done["evaluation"] = self.nimg
        self.evaluations.append(record)
        self.files.log("evaluations", record)
        if finite and (self.best is None or value < self.best.get(key, math.inf)):
            self.best = {"nimg": self.nimg, key: value}
            if not self.ranks.rank:
                state = self.trainer.ema.state()
                self.best_tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._judge(logs.rising(logs.selected(self.evaluations), key))
        self.meter.start()

    def _show(self, progress: Progress, force: bool = False) -> None:
        measured = dict([logs.selection(self.evaluations[-1])]) if self.evaluations else {}
        shown = measured | (self.train[-1]["losses"] if self.train else {})
        facts = {name: value for name, value in shown.items() if value is not None}
        progress.update(min(self.nimg, self.total), facts, force)

    def _record(self) -> dict[str, Any]:
        """Values of a state other than tensors; copies, because the lists grow while the state is written."""
        return {
            "finished": False,
            "images": self.metadata.get("images"),
            "nimg": self.nimg,
            "done": dict(self.done),
            "train": list(self.train),
            "evaluations": list(self.evaluations),
            "best": self.best,
            "meter": self.meter.state(),
        }

    def _save(self) -> None:
        best = {f"best/{name}": tensor for name, tensor in self.best_tensors.items()}
        self.files.save(self._record(), self.trainer.state(), best)
        self._saved, self._saved_nimg = time.monotonic(), self.nimg

    def _resume(self) -> None:
        # The files' reference would keep the tensors in memory.
        kept, self.files.kept = self.files.kept, None
        assert kept is not None
        try:
            record = kept.record
            self.nimg = self._saved_nimg = int(record["nimg"])
            self.done, self.best = {event: record["done"][event] for event in self.done}, record["best"]
            self.train, self.evaluations = record["train"], record["evaluations"]
            # What is read later is read here, too, so that the values of another version are noticed.
            for tick in self.train:
                _ = logs.hopeless(tick, self.max_nan_share), dict(tick["losses"])
            self.ended = self._reason_to_end() is not None
            self.meter.load(record["meter"])
            best = {n.removeprefix("best/"): t for n, t in kept.tensors.items() if n.startswith("best/")}
            if self.best is not None and best["parameters"].shape != self.trainer.ema.vector.shape:
                raise KeyError
            self.trainer.load({n: t for n, t in kept.tensors.items() if not n.startswith("best/")})
        except OTHER_STATE:
            raise other_state(kept.path) from None
        if not self.ranks.rank:
            self.best_tensors = best

    def _finish(self) -> None:
        """Writes a small last state, from which the results can be written again, and then the results."""
        if not self.publish_diverged and (fault := self.trainer.lost(self.train)):
            self._save()
            self.files.wait()
            remedy = "lower lr, or take it as it is with on_divergence: publish"
            raise UserError(self.stage, f"has diverged and is not published: {fault}", remedy)
        if self.best is None:
            self.best = {"nimg": self.nimg}
            self.best_tensors = dict(self.trainer.ema.state())
        metadata = {**self.metadata, **self.best, "last_nimg": self.nimg}
        record = {**self._record(), "finished": True, "metadata": metadata}
        self.files.save(record, {f"best/{name}": tensor for name, tensor in self.best_tensors.items()}, {})
        self.files.wait()
        self.files.publish(record, self.best_tensors)


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
    def opened(
        cls,
        kind: type[AnyConfig],
        config: AnyConfig | Mapping[str, Any] | str | os.PathLike[str],
        outdir: str | os.PathLike[str] | None,
        where: str,
    ) -> Run[AnyConfig]:
        """Reads the settings and prepares this process.

        Args:
            kind: Class of the settings.
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
            named = config.get("outdir")
            if named is not None and not (isinstance(named, (str, os.PathLike)) and str(named)):
                raise UserError(f"{where}.outdir", f"must be the path of a folder, got {named!r}", "remove it")
            outdir = named if outdir is None else outdir
            config = from_mapping(kind, {key: value for key, value in config.items() if key != "outdir"}, where)
        device = own_device(config.device, where)
        logs.check_loggers(config.loggers, where)
        prepare_process(config.threads)
        shelf = LOCAL_RESULTS / ("students" if isinstance(config, StudentConfig) else "teachers")
        folder = Path(shelf / config.name if outdir is None else outdir)
        return cls(config, folder, device, load_dataset(config.dataset, f"{where}.dataset"))

    def train(
        self,
        method: str,
        digest: str,
        start: Callable[[Ranks], Trainer],
        parents: Mapping[str, str | None] | None = None,
        set_aside: bool = False,
        seen: Iterable[Sketch | None] = (),
    ) -> Path:
        """Trains to the end, or writes the results of a finished run again.

        Args:
            method: Name of the method, or ``teacher``.
            digest: Digest of everything that decides the result.
            start: Makes the trainer, once the folder is locked and the run is known to be unfinished.
            parents: SHA-256 of the networks from which a student starts.
            set_aside: Start a new run although the folder holds an unfinished run of another configuration.
            seen: Sketches of the images that the parents have seen; None is unknown.

        Returns:
            Path of the network.
        """
        config, dataset, parents = self.config, self.dataset, parents or {}
        stage = f"{'teacher' if method == 'teacher' else 'distill'} {config.name}"
        code = code_version()
        with (
            # on_divergence changes no number, but whether a process ends.
            joined(self.device, (code, digest, config.on_divergence)) as ranks,
            RunFiles(self.folder, digest, set_aside, ranks, config.loggers) as files,
        ):
            if files.finished:
                files.publish_again(stage)
                return files.network
            trainer = start(ranks)
            trainer.join(ranks)
            # A resumed run need not read all images again.
            known = None if files.kept is None else read_sketch(files.kept.record.get("images"))
            sketch = known or ranks.from_first(lambda: join_sketches([dataset.sketch, *seen]))
            # Without times and paths: equal runs give equal files.
            metadata = {
                "name": config.name,
                "method": method,
                "network": architecture(trainer.ema.net),
                "dataset": {**dataset.describe(), "sha256": dataset.sha256},
                **({} if sketch is None else {"images": sketch.record()}),
                "seed": config.seed,
                "parents": dict(parents),
                "code_version": code,
                "config_sha256": digest,
                **trainer.provenance,
            }
            TrainingLoop(trainer, config, stage, files, metadata).run()
        return files.network
