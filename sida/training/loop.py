"""Training loop of teachers and students: steps, logs, evaluations, snapshots, states, stop and resume."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from sida.config.recipe import RunConfig, StudentConfig
from sida.config.settings import from_mapping, load_spec
from sida.data import Dataset, load_dataset
from sida.data.dataset import Sketch, join_sketches, read_sketch
from sida.errors import Progress, UserError, say
from sida.machine import code_version, device_name, peak_memory, prepare_process, take_device
from sida.networks import architecture
from sida.sampling.generate import NotFiniteError
from sida.sampling.store import Pictures
from sida.training import logs
from sida.training.iteration import Trainer
from sida.training.logs import TickMeter
from sida.training.optimizer import NamedTensors
from sida.training.processes import Interruption, RankLostError, Ranks, StopRequest, joined
from sida.training.run import BEST, RunFiles, copied, version_errors
from sida.training.schedule import points_passed

T = TypeVar("T")
AnyConfig = TypeVar("AnyConfig", bound=RunConfig)
#: Folder of runs without an explicit folder; no preset has this name.
LOCAL_RESULTS = Path("results") / "local"
#: Attributes of the loop that are kept in a state.
_KEPT = ("nimg", "done", "train", "evaluations", "best")
#: Names of provenance that may change when a training resumes, and of their lists in a state.
_ORIGINS = {"device": "devices", "code_version": "code_versions"}
#: Device or code of a part of a training whose state does not name it.
UNKNOWN_ORIGIN = "unknown"


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
        self, trainer: Trainer, config: RunConfig, stage: str, files: RunFiles, metadata: Mapping[str, Any]
    ) -> None:
        self.trainer, self.config, self.stage, self.files = trainer, config, stage, files
        self.metadata, self.ranks, self.total = dict(metadata), files.ranks, config.total_kimg * 1000
        self.origins = {kept: [str(self.metadata.get(name, UNKNOWN_ORIGIN))] for name, kept in _ORIGINS.items()}
        self.picture = Pictures(trainer.sampler, config.pictures, config.device)
        self.publish_diverged = config.on_divergence == "publish"
        self.nimg = 0
        # Images seen at the last log record, evaluation, snapshot and state.
        self.done: dict[str, int | None] = {"tick": 0, "evaluation": None, "snapshot": 0}
        self.train: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_tensors: NamedTensors = {}  # by their names in a state, on rank 0, which writes them
        self.ended = False  # whether the log ended the run early
        self.meter = TickMeter(self.ranks)
        # Time of the last state, and its number of images.
        self._saved, self._saved_nimg = time.monotonic(), 0

    def run(self) -> None:
        """Trains to the end and writes the results.

        Raises:
            UserError: The run has too many NaNs or too little memory, or an evaluation returns no number.
            KeyboardInterrupt: The process received SIGINT, or (Preempted) SIGTERM or SIGUSR1; the state is written.
        """
        if self.files.kept is not None:
            self._resume()
        # Removes records that a killed process logged after this state; the run will write them again.
        self.files.logs.restart(self.train, self.evaluations)
        progress = Progress(self.stage, self.total, done=self.nimg)
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
                record = self.trainer.iteration(self.nimg)
            except torch.OutOfMemoryError:
                remedies = (
                    "set checkpointing to true (the run resumes to the same numbers), or give a smaller batch_gpu"
                )
                alternatives = "(docs/differences.tsv, 20) or batch_size, a smaller network or a larger card"
                raise UserError("", f"out of memory at image {self.nimg:,}", f"{remedies} {alternatives}") from None
        self.meter.add(record, self.config.batch_size)
        self.nimg += self.config.batch_size

    # Events between iterations. Each event remembers its last number of images, so that a state written between two
    # events (for example after the log record and before the evaluation) resumes exactly there.

    def _events(self, interruption: Interruption) -> None:
        self.files.check()
        config, evaluation = self.config, self.trainer.evaluation
        if self._due("tick", config.tick_kimg):
            self._tick()
        if evaluated := evaluation and self._due("evaluation", evaluation.every_kimg, evaluation.per_decade):
            self._evaluate(interruption)
            if self._at_end() and self._due("tick", config.tick_kimg):
                # Writes the last record of a run that ends here.
                self._tick()
        if snapshot := self._due("snapshot", config.snapshot_kimg):
            metadata = {**self.metadata, "nimg": self.nimg, "last_nimg": self.nimg}
            self.files.write_snapshot(metadata, self.trainer.snapshots, self._draw)
            self.done["snapshot"] = self.nimg
        save = (evaluated or snapshot or self._state_is_old()) and not self._at_end()
        request = self.ranks.agree(max(interruption.request, StopRequest.SAVE if save else StopRequest.NONE))
        if request >= StopRequest.SAVE:
            self._save()
        if request > StopRequest.SAVE:
            self.files.wait()
            # If a rank ended before rank 0 has written, all ranks would end.
            self.ranks.agree(request).enforce()

    def _state_is_old(self) -> bool:
        if self.ranks.rank or self.nimg == self._saved_nimg:
            return False
        if not self.config.state_minutes:
            return True
        # While a slow disk is still writing, the next state waits, not the run.
        return not self.files.busy and time.monotonic() - self._saved >= self.config.state_minutes * 60

    def _due(self, event: str, every_kimg: float | None, per_decade: int | None = None) -> bool:
        last = self.done[event]
        if every_kimg is None or last == self.nimg:
            return False
        points = (every_kimg * 1000, per_decade)
        return last is None or self._at_end() or points_passed(self.nimg, *points) > points_passed(last, *points)

    def _at_end(self) -> bool:
        return self.ended or self.nimg >= self.total

    def _reason_to_end(self) -> str | None:
        """Reason to end early: a function of the log, so that a resumed run ends at the same image.

        Raises:
            UserError: The run is hopeless, and no result is wanted.
        """
        if self.train and (fault := logs.hopeless(self.train[-1], self.trainer.max_nan_share)):
            if not self.publish_diverged:
                remedy = "lower lr or the loss weights, or take it as it is with on_divergence: publish"
                raise UserError(self.stage, fault, remedy)
            return f"{fault} (on_divergence: publish)"
        if (plan := self.trainer.evaluation) and plan.patience is not None:
            values = [value for nimg, value in logs.selected(self.evaluations) if nimg > self.trainer.begun]
            if logs.since_best(values, plan.min_improvement) >= plan.patience:
                return f"{plan.patience} evaluations after the best one that counts (patience)"
        return None

    def _judge(self, faults: Sequence[str]) -> None:
        """Reports that the run diverges or ends here, or stops the run."""
        for fault in faults:
            line = f"{self.stage}: diverging at image {self.nimg:,}: {fault}"
            if self.config.on_divergence == "stop":
                remedy = "lower lr or the loss weights, or resume from the last kept state with on_divergence: say"
                raise UserError("", line, remedy)
            say(line)
        reason = self._reason_to_end()
        if reason and not self.ended:
            say(f"[{self.stage}] ends at image {self.nimg:,}: {reason}")
        self.ended = reason is not None

    def _tick(self) -> None:
        values = self.meter.finish()
        self.done["tick"] = self.nimg
        sizes = {name: network.weight_rms() for name, network in self.trainer.networks.items()}
        record = {"nimg": self.nimg, **values, "weight_rms": sizes, **peak_memory(self.ranks.world_size)}
        self.train.append(record)
        self.files.logs.add("train", record)
        self._judge(logs.unhealthy(self.train))

    def _evaluate(self, interruption: Interruption) -> None:
        self.meter.flush()
        start = time.perf_counter()
        assert self.trainer.evaluate is not None
        try:
            result = self.trainer.evaluate(self.trainer.ema.net, interruption, self.ranks)
        except NotFiniteError:
            if not self.publish_diverged or not self.evaluations:
                raise
            result = logs.without_numbers(self.evaluations[-1])
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
            raise UserError(self.stage, f"the evaluation at image {self.nimg:,} gave {key} = {value}, not a number")
        # JSON has no NaN; a figure that is not a number is logged as null.
        record = {"nimg": self.nimg, **logs.without_nan(result), "seconds": time.perf_counter() - start}
        self.done["evaluation"] = self.nimg
        self.evaluations.append(record)
        self.files.logs.add("evaluations", record)
        if finite and (self.best is None or value < self.best.get(key, math.inf)):
            self._keep({"nimg": self.nimg, key: value})
        self._judge(logs.rising(logs.selected(self.evaluations), key))
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
        self.best = best
        if not self.ranks.rank:
            self.best_tensors = copied({f"{BEST}{name}": value for name, value in self.trainer.ema.state().items()})

    def _show(self, progress: Progress, force: bool = False) -> None:
        metrics = dict([logs.selection(self.evaluations[-1])]) if self.evaluations else {}
        values = metrics | (self.train[-1]["losses"] if self.train else {})
        facts = {name: value for name, value in values.items() if value is not None}
        progress.update(min(self.nimg, self.total), facts, force)

    def _record(self) -> dict[str, Any]:
        """Values of a state other than tensors; copies, because the lists grow while the state is written."""
        attributes = {name: copy.copy(getattr(self, name)) for name in _KEPT}
        facts = {"finished": False, "images": self.metadata.get("images"), **self.origins}
        return {**attributes, **facts, "meter": self.meter.state()}

    def _save(self) -> None:
        self.files.save(self._record(), self.trainer.state(), self.best_tensors)
        self._saved, self._saved_nimg = time.monotonic(), self.nimg

    def _resume(self) -> None:
        # The files' reference would keep the tensors in memory.
        state, self.files.kept = self.files.kept, None
        assert state is not None
        with version_errors(state):
            for name in _KEPT:
                setattr(self, name, state.record[name])
            # Every machine and every code that trained the network is named.
            for name, kept in _ORIGINS.items():
                earlier = state.record.get(kept, [UNKNOWN_ORIGIN])
                self.origins[kept] = list(dict.fromkeys([*earlier, *self.origins[kept]]))
                self.metadata[name] = " and ".join(self.origins[kept])
            self._saved_nimg = self.nimg
            # The values that are read later are read here, too, so that those of another version are noticed.
            for tick in self.train:
                _ = logs.hopeless(tick, self.trainer.max_nan_share), dict(tick["losses"])
            self.ended = self._reason_to_end() is not None
            self.meter.load(state.record["meter"])
            best = {name: tensor for name, tensor in state.tensors.items() if name.startswith(BEST)}
            if self.best is not None and best[f"{BEST}parameters"].shape != self.trainer.ema.vector.shape:
                raise KeyError
            self.trainer.load({name: tensor for name, tensor in state.tensors.items() if name not in best})
        if not self.ranks.rank:
            self.best_tensors = best
            say(f"[{self.stage}] resumes at {self.nimg:,} of {self.total:,.0f} images")

    def _finish(self) -> None:
        """Writes a small last state, from which the results can be written again, and then the results."""
        if not self.publish_diverged and (fault := self.trainer.lost(self.train)):
            self._save()
            remedy = "lower lr, or take it as it is with on_divergence: publish"
            raise UserError(self.stage, f"has diverged and is not published: {fault}", remedy)
        if self.best is None:
            self._keep({"nimg": self.nimg})
        metadata = {**self.metadata, **(self.best or {}), "last_nimg": self.nimg}
        record = {**self._record(), "finished": True, "metadata": metadata}
        self.files.save(record, {}, self.best_tensors)
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
            outdir_setting = config.get("outdir")
            if outdir_setting is not None and not (
                isinstance(outdir_setting, (str, os.PathLike)) and str(outdir_setting)
            ):
                raise UserError(f"{where}.outdir", f"must be the path of a folder, got {outdir_setting!r}", "remove it")
            outdir = outdir_setting if outdir is None else outdir
            config = from_mapping(config_class, {key: value for key, value in config.items() if key != "outdir"}, where)
        device = take_device(config.device, where)
        prepare_process(config.threads)
        shelf = LOCAL_RESULTS / ("students" if isinstance(config, StudentConfig) else "teachers")
        folder = Path(shelf / config.name if outdir is None else outdir)
        return cls(config, folder, device, load_dataset(config.dataset, f"{where}.dataset"))

    def train(
        self,
        method: str,
        digest: str,
        start: Callable[[Ranks, AnyConfig], Trainer],
        parents: Mapping[str, str | None] | None = None,
        set_aside: bool = False,
        sketches: Iterable[Sketch | None] = (),
        known: Mapping[str, Any] | None = None,
    ) -> Path:
        """Trains to the end, or writes the results of a finished run again.

        Args:
            method: Name of the method, or ``teacher``.
            digest: Digest of everything that decides the result.
            start: Makes the trainer of these settings, once the folder is locked and the run is known to be unfinished.
            parents: SHA-256 of the networks from which a student starts.
            set_aside: Start a new run although the folder holds an unfinished run of another configuration.
            sketches: Sketches of the images that the parents have seen; None is unknown.
            known: Further facts for the header of the network's file.

        Returns:
            Path of the network.
        """
        code = code_version()
        stage = f"{'teacher' if method == 'teacher' else 'distill'} {self.config.name}"

        with (
            # on_divergence is not in the digest, but ranks that differ in it would end differently.
            joined(self.device, (code, digest, self.config.on_divergence)) as ranks,
            RunFiles(self.folder, digest, set_aside, ranks) as files,
        ):
            if files.finished:
                files.publish_again(stage)
                return files.network
            trainer = start(ranks, self.config)
            trainer.join(ranks)
            # A resumed run need not read all images again.
            stored_sketch = None if files.kept is None else read_sketch(files.kept.record.get("images"))
            sketch = stored_sketch or ranks.from_first(lambda: join_sketches([self.dataset.sketch, *sketches]))
            # For the network's file, without times and paths: equal runs give equal files.
            metadata = {
                "name": self.config.name,
                "method": method,
                "network": architecture(trainer.ema.net),
                "dataset": {**self.dataset.describe(), "sha256": self.dataset.sha256},
                **({} if sketch is None else {"images": sketch.record()}),
                # The exposure of what learns from latents of an encoder that nobody states.
                **({"saw": UNKNOWN_ORIGIN} if self.dataset.foreign_encoder else {}),
                "seed": self.config.seed,
                "parents": dict(parents or {}),
                **(known or {}),
                "code_version": code,
                "device": f"{ranks.world_size} × " * (ranks.world_size > 1) + device_name(str(self.device)),
                "config_sha256": digest,
                **trainer.provenance,
            }
            TrainingLoop(trainer, self.config.common, stage, files, metadata).run()
        return files.network
