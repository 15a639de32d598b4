"""The sums of one trial, or of a shard of it: one pass over the images feeds every metric of a protocol.

Nothing here knows where images come from. Feature statistics, the inception score and the accuracy stream in constant
memory; features are kept only where a metric needs neighbours or subsets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from eval.features.extraction import Features
from eval.inception_score import InceptionScoreSums
from eval.measuring.protocol import KINDS, Metric, Protocol
from eval.statistics import FeatureStatistics
from sida.errors import UserError
from sida.tensor_file import explained, read_tensors, write_tensors

FORMAT = "sida-trial-shard/1"


class TrialSums:
    """Everything that must be known of the images ``first … last − 1`` of a trial of ``protocol.num_samples``.

    Args:
        protocol: Decides what is kept.
        device: Where sums are kept.
    """

    def __init__(self, protocol: Protocol, device: str | torch.device = "cpu") -> None:
        self.protocol = protocol
        self.device = torch.device(device)
        self.ranges: list[tuple[int, int]] = []
        self.statistics = {
            name: FeatureStatistics(ddof=protocol.cov_ddof, device=device) for name in _users(protocol, "frechet")
        }
        self.scores: dict[str, InceptionScoreSums] = {}
        self.rows: dict[str, list[tuple[int, torch.Tensor]]] = {
            name: [] for kind, needs in KINDS.items() if needs["features"] for name in _users(protocol, kind)
        }
        self.correct: dict[str, int] = {}
        self.labelled: dict[str, int] = {}

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(end - begin for begin, end in self.ranges)

    def update(self, outputs: Mapping[str, Features], classes: torch.Tensor | None, first: int) -> None:
        """Adds a batch.

        Args:
            outputs: Features and logits by extractor.
            classes: Classes that were asked for, int64 (B,), or None where there are none.
            first: Index of the batch's first image within the trial.
        """
        size = len(next(iter(outputs.values())).features)
        self._cover(first, first + size)
        for name, statistics in self.statistics.items():
            statistics.update(outputs[name].features)
        for metric in self._metrics("inception_score"):
            probabilities = _probabilities(outputs[metric.extractor], metric.extractor)
            if metric.key not in self.scores:
                shape = (self.protocol.num_samples, metric.splits, probabilities.shape[1])
                self.scores[metric.key] = InceptionScoreSums(*shape, self.device)
            self.scores[metric.key].update(probabilities, first)
        for name, rows in self.rows.items():
            rows.append((first, outputs[name].features.float().cpu()))
        for name in _users(self.protocol, "accuracy"):
            if classes is not None:
                logits = outputs[name].logits
                if logits is None:
                    raise UserError(f"protocol '{self.protocol.name}': extractor '{name}' has no classes for accuracy")
                hits = int((logits.argmax(1).cpu() == classes.cpu()).sum())
                self.correct[name] = self.correct.get(name, 0) + hits
                self.labelled[name] = self.labelled.get(name, 0) + size

    def merge(self, other: TrialSums) -> TrialSums:
        """Adds another shard of the same trial; the order of merging does not matter. Returns itself.

        Raises:
            UserError: Shards of different protocols or with common images.
        """
        if self.protocol.sha256 != other.protocol.sha256:
            raise UserError("shards measured under different protocols cannot be merged; measure them again")
        for begin, end in other.ranges:
            self._cover(begin, end)
        for name, statistics in self.statistics.items():
            statistics.merge(other.statistics[name])
        for key, score in other.scores.items():
            if key in self.scores:
                self.scores[key].merge(score)
            else:
                self.scores[key] = InceptionScoreSums.from_tensors(score.tensors())
        for name, rows in self.rows.items():
            rows.extend(other.rows[name])
        for mine, theirs in ((self.correct, other.correct), (self.labelled, other.labelled)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0) + value
        return self

    def features(self, name: str) -> torch.Tensor:
        """Kept features of an extractor (N, C) in the order of the images, on the CPU."""
        return torch.cat([rows for _, rows in sorted(self.rows[name], key=lambda item: item[0])])

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of images of the trial that no shard has covered."""
        gaps, position = [], 0
        for begin, end in [*sorted(self.ranges), (self.protocol.num_samples, self.protocol.num_samples)]:
            if begin > position:
                gaps.append((position, begin))
            position = max(position, end)
        return gaps

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
        """Writes the sums atomically as safetensors; ``metadata`` says what they belong to."""
        tensors: dict[str, torch.Tensor] = {}
        for name, statistics in self.statistics.items():
            tensors |= {f"statistics/{name}/{key}": value for key, value in statistics.tensors().items()}
        for metric_key, score in self.scores.items():
            tensors |= {f"score/{metric_key}/{key}": value for key, value in score.tensors().items()}
        for name in self.rows:
            tensors[f"features/{name}"] = self.features(name)
        header = {
            "format": FORMAT,
            "protocol_sha256": self.protocol.sha256,
            "ranges": self.ranges,
            "correct": self.correct,
            "labelled": self.labelled,
            **metadata,
        }
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str], protocol: Protocol) -> tuple[TrialSums, dict[str, Any]]:
        """Reads a shard and its metadata.

        Raises:
            UserError: Missing or broken file, or a shard of another protocol.
        """
        with explained(path, "cannot be read", "measure this shard again"):
            tensors, header = read_tensors(path)
            if header.get("format") != FORMAT:
                raise ValueError("no shard of a trial")
        if header["protocol_sha256"] != protocol.sha256:
            raise UserError(f"{path}: measured under another protocol than '{protocol.name}'; measure this shard again")
        result = cls(protocol)
        result.ranges = [(begin, end) for begin, end in header["ranges"]]
        result.correct, result.labelled = dict(header["correct"]), dict(header["labelled"])
        for name in result.statistics:
            result.statistics[name] = FeatureStatistics.from_tensors(
                _within(tensors, f"statistics/{name}/"), protocol.cov_ddof
            )
        for metric in result._metrics("inception_score"):
            result.scores[metric.key] = InceptionScoreSums.from_tensors(_within(tensors, f"score/{metric.key}/"))
        for name in result.rows:
            result.rows[name] = list(_split_rows(tensors[f"features/{name}"], result.ranges))
        return result, header

    def _cover(self, begin: int, end: int) -> None:
        if end > self.protocol.num_samples:
            raise UserError(f"images {begin}-{end - 1} lie beyond the trial's {self.protocol.num_samples} images")
        for other in self.ranges:
            if begin < other[1] and other[0] < end:
                raise UserError(f"images {max(begin, other[0])}-{min(end, other[1]) - 1} are covered by two shards")
        if self.ranges and self.ranges[-1][1] == begin:
            self.ranges[-1] = (self.ranges[-1][0], end)
        else:
            self.ranges.append((begin, end))

    def _metrics(self, kind: str) -> list[Metric]:
        return [metric for metric in self.protocol.metrics if metric.kind == kind]


def _users(protocol: Protocol, kind: str) -> list[str]:
    """Extractors that metrics of a kind use."""
    return list(dict.fromkeys(metric.extractor for metric in protocol.metrics if metric.kind == kind))


def _probabilities(output: Features, name: str) -> torch.Tensor:
    if output.logits is None:
        raise UserError(f"extractor '{name}' has no class probabilities for the inception score")
    return torch.softmax(output.logits.double(), dim=1)


def _within(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _split_rows(rows: torch.Tensor, ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, torch.Tensor]]:
    """Kept rows are stored in the order of the images; ranges say which images they are."""
    position = 0
    for begin, end in sorted(ranges):
        yield begin, rows[position : position + end - begin]
        position += end - begin
