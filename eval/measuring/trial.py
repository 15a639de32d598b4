"""Sums of one trial, and the pass that fills them: images go through all extractors into the sums.

This module is independent of the source of the images and of the kinds of metrics. Features are kept only if a metric
requests them; everything else streams in constant memory.

On a GPU the source runs ahead in a thread and on a separate stream, so that decoding, drawing latents on the CPU and
sampling overlap with feature extraction. On a CPU they take turns on all cores: threads that share cores wait for each
other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch

from sida.errors import UserError
from sida.eval.features.base import Extractor
from sida.eval.features.registry import Features
from sida.eval.measuring.protocol import Protocol
from sida.eval.measuring.references import Reference
from sida.eval.measuring.source import ImageBatch
from sida.eval.metrics.kinds import Mean
from sida.eval.metrics.metric import Metric, Sides
from sida.eval.metrics.statistics import FeatureStatistics
from sida.files.parts import PartFolder
from sida.machine import tf32
from sida.prefetch import prefetch


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Sets torch's CPU threads within a context; 0 changes nothing."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TrialSums:
    """Sums over images of a trial, sufficient to compute all metrics of a protocol.

    Args:
        protocol: Protocol of the trial.
        device: Torch device of the sums, and of distances between features.
    """

    def __init__(self, protocol: Protocol, device: str | torch.device = "cpu") -> None:
        self.protocol = protocol
        self.device = torch.device(device)
        #: Number of images.
        self.count = 0
        self.metrics = [dataclasses.replace(metric) for metric in protocol.metrics]
        self.statistics = {
            metric.extractor: FeatureStatistics(None, protocol.cov_ddof, device, protocol.num_samples)
            for metric in self.metrics
            if metric.generated == "moments"
        }
        self.rows: dict[str, list[tuple[int, torch.Tensor]]] = {
            metric.extractor: [] for metric in self.metrics if metric.generated == "features"
        }

    def update(self, outputs: Mapping[str, Features], classes: torch.Tensor | None, first: int) -> None:
        """Adds a batch.

        Args:
            outputs: Features and logits by extractor.
            classes: Requested classes, int64 (B,), or None.
            first: Index of the batch's first image within the trial.
        """
        self.count += len(next(iter(outputs.values())).features)
        for name, statistics in self.statistics.items():
            statistics.update(outputs[name].features)
        for name, rows in self.rows.items():
            rows.append((first, outputs[name].features.float().cpu()))
        for metric in self.metrics:
            metric.update(outputs[metric.extractor], classes, first, self.protocol.num_samples)

    def merge(self, other: TrialSums) -> TrialSums:
        """Adds another part of the same trial; other parts give other last digits of sums. Returns itself."""
        self.count += other.count
        for name, statistics in self.statistics.items():
            statistics.merge(other.statistics[name])
        for name, rows in self.rows.items():
            rows.extend(other.rows[name])
        for metric, further in zip(self.metrics, other.metrics, strict=True):
            metric.merge(further)
        return self

    def features(self, name: str) -> torch.Tensor:
        """Kept features of an extractor (N, C) in the order of the images, on the CPU."""
        return torch.cat([rows for _, rows in sorted(self.rows[name], key=lambda item: item[0])])


def compute_metrics(sums: TrialSums, references: Mapping[str, Reference]) -> tuple[dict[str, float], dict[str, Any]]:
    """Computes all metrics of the protocol with their details.

    Args:
        sums: Sums of a whole trial.
        references: References by key.

    Returns:
        ``(values, details)`` by metric key. A metric that could not be measured, such as the accuracy of an
        unconditional generator, has no value; ``details`` then has the reason.

    Raises:
        UserError: A trial with missing or further images, or a reference that does not fit.
    """
    if sums.count != (size := sums.protocol.num_samples):
        raise UserError("trial", f"has {sums.count} images, not {size}", "measure the trial again")
    values: dict[str, float] = {}
    once: dict[Any, Any] = {("values",): values}
    details: dict[str, Any] = {}
    # Means come last: they read the values of other metrics.
    for metric in sorted(sums.metrics, key=lambda metric: isinstance(metric, Mean)):
        value, detail = metric.compute(Sides(metric, sums, references, sums.device, once))
        if value is not None:
            values[metric.key] = value
        if detail:
            details[metric.key] = detail
    return values, details


def run_pass(
    batches: Iterable[ImageBatch],
    extractors: Mapping[str, Extractor],
    sums: TrialSums,
    first: int = 0,
    prefetched: int = 0,
    progress: Callable[[int], None] | None = None,
    skipped: int = 0,
    keep: Callable[[Mapping[str, Features], torch.Tensor | None], None] | None = None,
) -> TrialSums:
    """Adds batches to ``sums`` and returns ``sums``.

    A batch is added when the features of the next one are requested: adding waits for a GPU, which then has work.

    Args:
        batches: Images in the order of their seeds.
        extractors: Networks by name.
        sums: Sums of the trial.
        first: Index of the first image within the trial.
        prefetched: Number of batches that a thread prepares in advance; 0: no thread.
        progress: Called after each batch with the number of finished images.
        skipped: Number of images between two batches, which other processes add.
        keep: Called with the outputs and classes of each batch.
    """
    position, count = first, 0
    waiting: tuple[Mapping[str, Features], torch.Tensor | None, int] | None = None
    # The last layer of Inception is a product of 2048 × 1008; only kinds with sums of their own use its logits.
    classes = {metric.extractor for metric in sums.metrics if type(metric).update is not Metric.update}
    with tf32(sums.protocol.allow_tf32):
        for batch in prefetch(batches, prefetched, sums.device) if prefetched else batches:
            outputs = extract(batch.images, extractors, classes)
            if waiting is not None:
                sums.update(*waiting)
            if keep is not None:
                keep(outputs, batch.classes)
            waiting = outputs, batch.classes, position
            count += len(batch.images)
            position += len(batch.images) + skipped
            if progress is not None:
                progress(count)
        if waiting is not None:
            sums.update(*waiting)
    return sums


def extract(images: torch.Tensor, extractors: Mapping[str, Extractor], classes: Collection[str]) -> dict[str, Features]:
    """Features of uint8 images (N, C, H, W) by every extractor, one pass each; logits of those in ``classes``."""
    return {
        name: Features(*extractor.features_and_logits(images)) if name in classes else Features(extractor(images), None)
        for name, extractor in extractors.items()
    }


#: Seconds of a trial from one part to the next: a trial of minutes has none.
PART_SECONDS = 180.0


class KeptBatches:
    """Outputs of a trial's batches in numbered parts, with which an interrupted trial resumes within itself.

    Added in their order they give the sums of an uninterrupted trial to the last bit.

    Args:
        parts: The parts; their places are images of the trial.
        batch_size: Images of a batch.
        device: Torch device of the outputs.
    """

    def __init__(self, parts: PartFolder, batch_size: int, device: str | torch.device) -> None:
        self._parts, self._batch_size, self._device = parts, batch_size, device
        self._waiting: list[tuple[Mapping[str, Features], torch.Tensor | None]] = []
        self._place, self._written = 0, time.monotonic()

    def __iter__(self) -> Iterator[tuple[dict[str, Features], torch.Tensor | None]]:
        """Yields features and logits by extractor, and classes, of each kept batch."""
        while part := self._parts.read(self._place):
            self._place += part.size
            pieces = {name: tensor.to(self._device).split(self._batch_size) for name, tensor in part.tensors.items()}
            names = [name.removesuffix("/features") for name in pieces if name.endswith("/features")]
            for at in range(-(-part.size // self._batch_size)):
                batch = {name: tensors[at] for name, tensors in pieces.items()}
                outputs = {name: Features(batch[f"{name}/features"], batch.get(f"{name}/logits")) for name in names}
                yield outputs, batch.get("classes")

    def add(self, outputs: Mapping[str, Features], classes: torch.Tensor | None) -> None:
        """Adds a batch; the batches of some minutes become a part."""
        self._waiting.append((outputs, classes))
        if time.monotonic() - self._written < PART_SECONDS:
            return
        columns: dict[str, list[torch.Tensor | None]] = {"classes": [labels for _, labels in self._waiting]}
        for name in outputs:
            columns[f"{name}/features"] = [batch[name].features for batch, _ in self._waiting]
            columns[f"{name}/logits"] = [batch[name].logits for batch, _ in self._waiting]
        known = {name: [piece for piece in pieces if piece is not None] for name, pieces in columns.items()}
        tensors = {name: torch.cat(pieces) for name, pieces in known.items() if pieces}
        size = sum(len(next(iter(batch.values())).features) for batch, _ in self._waiting)
        self._parts.folder.mkdir(parents=True, exist_ok=True)
        self._parts.write(self._place, size, tensors)
        self._place, self._waiting, self._written = self._place + size, [], time.monotonic()

    def remove(self) -> None:
        """Removes the parts, and those of other settings."""
        shutil.rmtree(self._parts.folder, ignore_errors=True)
