"""Training loop of teachers and students: steps, logs, evaluations, snapshots, states, stop and resume."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from sida.config.recipe import EvaluationSettings, RunConfig, StudentConfig
from sida.config.settings import from_mapping
from sida.errors import Progress, UserError, say
from sida.machine import peak_memory
from sida.training.averages import Average
from sida.training.evaluation import Evaluate, shared_out
from sida.training.logs import IterationRecord, TickMeter, hopeless, rising, unhealthy, without_nan
from sida.training.optimizer import NamedTensors, Resumable
from sida.training.processes import ALONE, Interruption, Ranks, StopRequest
from sida.training.run import OTHER_STATE, DrawPicture, RunFiles, other_state


@dataclasses.dataclass(frozen=True)
class Points:
    """Numbers of images at which an event happens: multiples of ``every``, or ``every · 10^(k / per_decade)``.

    Attributes:
        every: Images between two points; on the logarithmic scale, the first point.
        per_decade: Number of points per factor of ten; None spaces the points evenly.
    """

    every: float
    per_decade: int | None = None

    def passed(self, nimg: int) -> int:
        """Number of points at or before ``nimg`` images."""
        if self.per_decade is None:
            return int(nimg // self.every)
        if nimg < self.every:
            return 0
        # The rounding of a logarithm must not lose a point that is met exactly.
        return math.floor(math.log10(nimg / self.every) * self.per_decade + 1e-9) + 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a run and intervals of its events, in images.

    Attributes:
        stage: Label of progress lines.
        total: Length of the run.
        batch_size: Images per iteration.
        tick: Interval of log records.
        snapshot: Points of snapshots; None writes no snapshots.
        evaluation: Points of evaluations; None never evaluates.
        patience: Number of consecutive evaluations without improvement that end the run; None trains to the end.
        min_improvement: Share by which a value must be lower than the best value before it.
        counted_after: Images after which evaluations count for patience; all phases of the method have begun by then.
        max_nan_share: Largest share of samples with NaN within a tick.
        state_seconds: Time between two states, in addition to those at events; 0 writes a state after each iteration.
        stop_diverged: Whether to stop a run that diverges.
        publish_diverged: Whether a hopeless run ends with a result instead of an error.
    """

    stage: str
    total: float
    batch_size: int
    tick: Points
    snapshot: Points | None = None
    evaluation: Points | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    counted_after: float = 0.0
    max_nan_share: float = 1.0
    state_seconds: float = 300.0
    stop_diverged: bool = False
    publish_diverged: bool = False

    @classmethod
    def from_config(cls, config: RunConfig, stage: str, begun: float = 0.0) -> Plan:
        """Returns the plan of a configuration; settings are in kimg, plans in images.

        Args:
            config: Settings of a teacher, or of a student, which may have evaluations.
            stage: Label of progress lines.
            begun: Images after which all phases of the method have begun.
        """
        more: dict[str, Any] = {}
        if isinstance(config, StudentConfig):
            more["max_nan_share"] = config.max_nan_share
            if config.evaluation is not None:
                given = from_mapping(EvaluationSettings, config.evaluation, "evaluation")
                more["evaluation"] = Points(given.every_kimg * 1000, given.per_decade)
                more |= {"patience": given.patience, "min_improvement": given.min_improvement, "counted_after": begun}
        return cls(
            stage=stage,
            total=config.total_kimg * 1000,
            batch_size=config.batch_size,
            tick=Points(config.tick_kimg * 1000),
            snapshot=None if config.snapshot_kimg is None else Points(config.snapshot_kimg * 1000),
            state_seconds=config.state_minutes * 60,
            stop_diverged=config.on_divergence == "stop",
            publish_diverged=config.on_divergence == "publish",
            **more,
        )

    def plateaued(self, evaluations: Sequence[tuple[int, float]]) -> bool:
        """Whether the last ``patience`` evaluations are no better than the evaluations before them.

        Args:
            evaluations: Images seen and value of each evaluation, in order.
        """
        best, since = math.inf, 0
        for nimg, value in evaluations:
            if nimg <= self.counted_after:
                continue
            if value < best * (1 - self.min_improvement):
                best, since = value, 0
            else:
                since += 1
        return self.patience is not None and since >= self.patience


class Trainer(Resumable, Protocol):
    """Interface of a trainer to the loop; its state is everything that a resumed run needs."""

    @property
    def ema(self) -> Average:
        """Averaged network, the product of the run."""

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """Networks of a snapshot with additions to the run's header, by the suffix of their file names.

        The first is the product of the run.
        """

    def iteration(self, nimg: int) -> IterationRecord:
        """Does one step after ``nimg`` images."""

    def weight_rms(self) -> dict[str, float | None]:
        """Root mean square of the weights of each optimized network, for the log."""


class TrainingLoop:
    """Runs a trainer from a stored state, or from its beginning, to the end of its plan.

    Everything that decides the result is a function of images seen, so a resumed run ends with the same bytes as an
    uninterrupted run (apart from times in ``train.jsonl`` and ``evaluations.jsonl``).

    Args:
        plan: Length and intervals.
        trainer: Trainer of a teacher or a student.
        files: The run's folder, with the state from which to resume.
        metadata: Provenance of the final network; the loop adds ``nimg``, ``last_nimg`` and the selection value.
        evaluate: Measures a network; the average with the lowest selection value is the run's result. None makes the
            last average the result.
        ranks: Processes that train together. All run the same loop; rank 0 writes and evaluates.
        picture: Draws images of the average for each snapshot; None draws none.
        lost: Returns the reason to reject the last network, given the log's records, or None. After a rejection the run
            keeps its state and ends with this reason as an error. None accepts every network.
    """

    def __init__(
        self,
        plan: Plan,
        trainer: Trainer,
        files: RunFiles,
        metadata: Mapping[str, Any],
        evaluate: Evaluate | None = None,
        ranks: Ranks = ALONE,
        picture: DrawPicture | None = None,
        lost: Callable[[Sequence[Mapping[str, Any]]], str | None] | None = None,
    ) -> None:
        self.plan, self.trainer, self.files, self.ranks = plan, trainer, files, ranks
        self.picture, self.lost = picture, lost
        self.metadata, self.evaluate = dict(metadata), evaluate
        self.nimg = 0
        # Images seen at the last log record, evaluation, snapshot and state.
        self.done: dict[str, int | None] = {"tick": 0, "evaluation": None, "snapshot": 0}
        self.train: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_tensors: NamedTensors = {}  # on rank 0, which writes them
        self.ended = False  # whether the log ended the run early
        self.meter = TickMeter(ranks)
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
        progress = Progress(self.plan.stage, self.plan.total, done=self.nimg)
        with Interruption() as interruption:
            self.meter.start()
            self._events(interruption)
            while not self._at_end():
                self.meter.add(self.trainer.iteration(self.nimg), self.plan.batch_size)
                self.nimg += self.plan.batch_size
                self._events(interruption)
                self._show(progress)
            self._finish()
            self._show(progress, force=True)

    # Events between iterations. Each event remembers its last number of images, so that a state written between two
    # events (for example after the log record and before the evaluation) resumes exactly there.

    def _events(self, interruption: Interruption) -> None:
        self.files.check()
        save = False
        if self._due("tick", self.plan.tick):
            self._tick()
        if self.evaluate is not None and self._due("evaluation", self.plan.evaluation):
            self._evaluate(self.evaluate, interruption)
            if self._at_end() and self._due("tick", self.plan.tick):
                # Writes the last record of a run that ends here.
                self._tick()
            save = True
        if self._due("snapshot", self.plan.snapshot):
            self._snapshot()
            save = True
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
        if not self.plan.state_seconds:
            return True
        # A slow disk does not delay the run.
        return not self.files.busy and time.monotonic() - self._saved >= self.plan.state_seconds

    def _due(self, event: str, points: Points | None) -> bool:
        last = self.done[event]
        if points is None or last == self.nimg:
            return False
        return last is None or self._at_end() or points.passed(self.nimg) > points.passed(last)

    def _at_end(self) -> bool:
        return self.ended or self.nimg >= self.plan.total

    def _selected(self) -> list[tuple[int, float]]:
        """Images seen and selection value of each evaluation; infinite if the value is not a number."""
        pairs = [(record["nimg"], record[record.get("selection", "fd")]) for record in self.evaluations]
        return [(nimg, math.inf if value is None else value) for nimg, value in pairs]

    def _over(self) -> bool:
        """Whether the run ends here: a function of the log, so that a resumed run ends at the same image."""
        if self.plan.publish_diverged and self.train and hopeless(self.train[-1], self.plan.max_nan_share):
            return True
        return self.plan.plateaued(self._selected())

    def _warn(self, faults: Sequence[str]) -> None:
        """Reports that the run diverges, or stops the run."""
        for fault in faults:
            line = f"{self.plan.stage}: diverging at image {self.nimg:,}: {fault}"
            remedy = "lower lr or the loss weights, or resume from the last kept state with on_divergence: say"
            if self.plan.stop_diverged:
                raise UserError("", line, remedy)
            if not self.ranks.rank:
                say(line)

    def _tick(self) -> None:
        values = self.meter.finish()
        self.meter.start()
        self.done["tick"] = self.nimg
        memory = peak_memory(self.ranks.world_size)
        record = {"nimg": self.nimg, **values, "weight_rms": self.trainer.weight_rms(), **memory}
        fault = hopeless(record, self.plan.max_nan_share)
        if fault and not self.plan.publish_diverged:
            remedy = "lower lr or the loss weights, or take it as it is with on_divergence: publish"
            raise UserError(self.plan.stage, fault, remedy)
        self.train.append(record)
        self.files.log("train", record)
        self._warn(unhealthy(self.train))
        self.ended = self._over()
        if fault and not self.ranks.rank:
            say(f"[{self.plan.stage}] ends at image {self.nimg:,}: {fault} (on_divergence: publish)")

    def _evaluate(self, evaluate: Evaluate, interruption: Interruption) -> None:
        self.meter.pause()
        start = time.perf_counter()
        net = self.trainer.ema.net
        result = shared_out(evaluate, net, interruption, self.ranks)
        if isinstance(result, StopRequest):
            self._save()
            return self._end(result)
        key = result.get("selection", "fd")
        value = result.get(key)
        finite = isinstance(value, float) and math.isfinite(value)
        if not isinstance(value, float) or not (finite or self.plan.publish_diverged):
            raise UserError(
                self.plan.stage, f"the evaluation at image {self.nimg:,} gave {key} = {value}, not a number"
            )
        # JSON has no NaN; a figure that is not a number is logged as null.
        record = {"nimg": self.nimg, **without_nan(result), "seconds": time.perf_counter() - start}
        self.done["evaluation"] = self.nimg
        self.evaluations.append(record)
        self.files.log("evaluations", record)
        if finite and (self.best is None or value < self.best.get(key, math.inf)):
            self.best = {"nimg": self.nimg, key: value}
            if not self.ranks.rank:
                state = self.trainer.ema.state()
                self.best_tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._warn([fault for fault in [rising(self._selected(), key)] if fault])
        self.ended = self._over()
        if self.plan.plateaued(self._selected()) and not self.ranks.rank:
            where = f"image {self.nimg:,}, {self.plan.patience} evaluations after the best one that counts"
            say(f"[{self.plan.stage}] ends at {where} (patience)")
        self.meter.start()

    def _snapshot(self) -> None:
        metadata = {**self.metadata, "nimg": self.nimg, "last_nimg": self.nimg}
        self.files.write_snapshot(metadata, self.trainer.snapshots, self.picture)
        self.done["snapshot"] = self.nimg

    def _show(self, progress: Progress, force: bool = False) -> None:
        latest = self.evaluations[-1] if self.evaluations else {}
        key = latest.get("selection", "fd")
        shown = {key: latest.get(key)} | (self.train[-1]["losses"] if self.train else {})
        facts = {name: value for name, value in shown.items() if value is not None}
        progress.update(min(self.nimg, self.plan.total), facts, force)

    def _record(self) -> dict[str, Any]:
        """Values of a state other than tensors; copies, because the lists grow while the state is written."""
        return {
            "finished": False,
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
        kept = self.files.take_kept()
        record = kept.record
        try:
            self.nimg = self._saved_nimg = int(record["nimg"])
            self.done, self.best = {event: record["done"][event] for event in self.done}, record["best"]
            self.train, self.evaluations = record["train"], record["evaluations"]
            # What is read later is read here, too, so that the values of another version are noticed.
            for tick in self.train:
                _ = hopeless(tick, self.plan.max_nan_share), dict(tick["losses"]), dict(tick["grad_norm"])
            self.ended = self._over()
            self.meter.load(record["meter"])
            best = {n.removeprefix("best/"): t for n, t in kept.tensors.items() if n.startswith("best/")}
            if self.best is not None and best["parameters"].shape != self.trainer.ema.flat.vector.shape:
                raise KeyError
            self.trainer.load({n: t for n, t in kept.tensors.items() if not n.startswith("best/")})
        except OTHER_STATE:
            raise other_state(kept.path) from None
        if not self.ranks.rank:
            self.best_tensors = best

    def _finish(self) -> None:
        """Writes a small last state, from which the results can be written again, and then the results."""
        if self.lost is not None and (fault := self.lost(self.train)):
            self._save()
            self.files.wait()
            raise UserError(
                self.plan.stage,
                f"has diverged and is not published: {fault}",
                "lower lr, or take it as it is with on_divergence: publish",
            )
        if self.best is None:
            self.best = {"nimg": self.nimg}
            self.best_tensors = dict(self.trainer.ema.state())
        metadata = {**self.metadata, **self.best, "last_nimg": self.nimg}
        record = {**self._record(), "finished": True, "metadata": metadata}
        self.files.save(record, {f"best/{name}": tensor for name, tensor in self.best_tensors.items()}, {})
        self.files.wait()
        self.files.publish(record, self.best_tensors)
