"""Sums of one trial or shard: one pass over the images feeds all metrics of a protocol.

This module is independent of the source of the images and of the kinds of metrics. Features are kept only if a metric
requests them; everything else streams in constant memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from eval.features.registry import Features
from eval.measuring.metric import Sides
from eval.measuring.protocol import Protocol
from eval.measuring.reference_files import within
from eval.measuring.references import Reference
from eval.statistics import FeatureStatistics
from sida.errors import UserError
from sida.files.tensors import explained, read_tensors, write_tensors

_FORMAT = "sida-trial-shard/1"


class TrialSums:
    """Sums over images of a trial, sufficient to compute all metrics of a protocol.

    Args:
        protocol: Protocol of the trial.
        device: Torch device of the sums.
    """

    def __init__(self, protocol: Protocol, device: str | torch.device = "cpu") -> None:
        self.protocol = protocol
        self.device = torch.device(device)
        self.ranges: list[tuple[int, int]] = []
        self.metrics = [dataclasses.replace(metric) for metric in protocol.metrics]
        self.statistics = {
            metric.extractor: FeatureStatistics(ddof=protocol.cov_ddof, device=device)
            for metric in self.metrics
            if metric.generated == "moments"
        }
        self.rows: dict[str, list[tuple[int, torch.Tensor]]] = {
            metric.extractor: [] for metric in self.metrics if metric.generated == "features"
        }

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(end - begin for begin, end in self.ranges)

    def update(self, outputs: Mapping[str, Features], classes: torch.Tensor | None, first: int) -> None:
        """Adds a batch.

        Args:
            outputs: Features and logits by extractor.
            classes: Requested classes, int64 (B,), or None.
            first: Index of the batch's first image within the trial.
        """
        size = len(next(iter(outputs.values())).features)
        self._cover(first, first + size)
        for name, statistics in self.statistics.items():
            statistics.update(outputs[name].features)
        for name, rows in self.rows.items():
            rows.append((first, outputs[name].features.float().cpu()))
        for metric in self.metrics:
            metric.update(outputs[metric.extractor], classes, first, self.protocol.num_samples)

    def merge(self, other: TrialSums) -> TrialSums:
        """Adds another shard of the same trial; the order of merging does not matter. Returns itself.

        Raises:
            UserError: Shards of different protocols or with common images.
        """
        if self.protocol.trial_sha256 != other.protocol.trial_sha256:
            raise UserError("", "shards measured under different protocols cannot be merged", "measure them again")
        for begin, end in other.ranges:
            self._cover(begin, end)
        for name, statistics in self.statistics.items():
            statistics.merge(other.statistics[name])
        for name, rows in self.rows.items():
            rows.extend(other.rows[name])
        for mine, theirs in zip(self.metrics, other.metrics):
            mine.merge(theirs)
        return self

    def features(self, name: str) -> torch.Tensor:
        """Kept features of an extractor (N, C) in the order of the images, on the CPU."""
        return torch.cat([rows for _, rows in sorted(self.rows[name], key=lambda item: item[0])])

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of images of the trial that are not in the sums."""
        gaps, position = [], 0
        for begin, end in [*sorted(self.ranges), (self.protocol.num_samples, self.protocol.num_samples)]:
            if begin > position:
                gaps.append((position, begin))
            position = max(position, end)
        return gaps

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
        """Writes the sums atomically as safetensors; ``metadata`` identifies the trial and its spec."""
        tensors: dict[str, torch.Tensor] = {}
        for name, statistics in self.statistics.items():
            tensors |= {f"statistics/{name}/{key}": value for key, value in statistics.tensors().items()}
        for metric in self.metrics:
            tensors |= {f"score/{metric.key}/{key}": value for key, value in metric.tensors().items()}
        for name in self.rows:
            tensors[f"features/{name}"] = self.features(name)
        header: dict[str, Any] = {
            "format": _FORMAT,
            "protocol_sha256": self.protocol.trial_sha256,
            "ranges": self.ranges,
            **metadata,
        }
        for metric in self.metrics:
            for key, count in metric.counts().items():
                header.setdefault(key, {})[metric.extractor] = count
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str], protocol: Protocol) -> tuple[TrialSums, dict[str, Any]]:
        """Reads a shard and its metadata.

        Raises:
            UserError: Missing or broken file, or a shard of another protocol.
        """
        with explained(path, "cannot be read", "measure this shard again"):
            tensors, header = read_tensors(path)
            if header.get("format") != _FORMAT:
                raise ValueError("no shard of a trial")
        if header["protocol_sha256"] != protocol.trial_sha256:
            raise UserError(path, f"measured under another protocol than '{protocol.name}'", "measure this shard again")
        result = cls(protocol)
        result.ranges = [(begin, end) for begin, end in header["ranges"]]
        for name in result.statistics:
            result.statistics[name] = FeatureStatistics.from_tensors(
                within(tensors, f"statistics/{name}/"), protocol.cov_ddof
            )
        for metric in result.metrics:
            counts = {key: header.get(key, {}).get(metric.extractor, 0) for key in metric.counts()}
            metric.restore(within(tensors, f"score/{metric.key}/"), counts)
        for name in result.rows:
            result.rows[name] = list(_split_rows(tensors[f"features/{name}"], result.ranges))
        return result, header

    def _cover(self, begin: int, end: int) -> None:
        if end > self.protocol.num_samples:
            raise UserError("", f"images {begin}-{end - 1} lie beyond the trial's {self.protocol.num_samples} images")
        for other in self.ranges:
            if begin < other[1] and other[0] < end:
                raise UserError("", f"images {max(begin, other[0])}-{min(end, other[1]) - 1} are covered by two shards")
        if self.ranges and self.ranges[-1][1] == begin:
            self.ranges[-1] = (self.ranges[-1][0], end)
        else:
            self.ranges.append((begin, end))


def _split_rows(rows: torch.Tensor, ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, torch.Tensor]]:
    """Splits stored rows by the ranges of their images; yields (first image, rows)."""
    position = 0
    for begin, end in sorted(ranges):
        yield begin, rows[position : position + end - begin]
        position += end - begin


def compute_metrics(
    sums: TrialSums, references: Mapping[str, Reference], device: str | torch.device = "cpu"
) -> tuple[dict[str, float], dict[str, Any]]:
    """Computes all metrics of the protocol with their details.

    Args:
        sums: Sums of a whole trial.
        references: References by key.
        device: Torch device for distances between features.

    Returns:
        ``(values, details)`` by metric key. A metric that could not be measured, such as the accuracy of an
        unconditional generator, has no value; ``details`` then has the reason.

    Raises:
        UserError: A trial with missing images, or a reference that does not fit.
    """
    if gaps := sums.missing():
        listed = ", ".join(f"{begin}-{end - 1}" for begin, end in gaps[:5])
        raise UserError("trial is incomplete", f"images {listed} are missing", "measure these shards and merge again")
    once: dict[Any, Any] = {}
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    for metric in sums.metrics:
        value, detail = metric.compute(Sides(metric, sums, references, device, once))
        if value is not None:
            values[metric.key] = value
        if detail:
            details[metric.key] = detail
    return values, details
