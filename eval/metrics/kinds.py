"""Metric kinds of this package, and the values that a kind can have.

A kind declares its inputs and settings, collects sums of its own where it has some, and computes the value. The fields
of a kind are settings of the protocol's metric and part of the identity of its values. A new kind of this package is a
class here and a line in ``config/core.toml``; a protocol names a custom kind as ``module:object`` (example:
``docs/examples/coverage.py``).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from sida.config.registries import Registry
from sida.config.settings import Count, Range, Variants
from sida.errors import UserError, exact
from sida.eval.features.registry import EXTRACTORS
from sida.eval.metrics.metric import Direction, Metric, MetricValue, Sides

if TYPE_CHECKING:
    # The start of a workflow reads protocols and must not wait for torch.
    import torch

    from sida.eval.features.registry import Features
    from sida.eval.metrics.inception_score import InceptionScoreSums


@dataclass(kw_only=True)
class Frechet(Metric):
    """Fréchet distance of two normal distributions (FID, FD-DINOv2)."""

    generated = real = "moments"
    selects = True
    least = 0.0

    def compute(self, sides: Sides) -> MetricValue:
        """The distance, with ranks, rounding error and the reference's effective rank as details."""
        from sida.eval.metrics.frechet import moments_report

        report = moments_report(sides.statistics.moments, sides.real_moments)
        detail: dict[str, Any] = {"mean_term": report.mean_term, "ranks": list(report.ranks)}
        detail["reference"] = {"effective_rank": sides.real_moments.effective_rank}
        detail["numerical_error"] = report.numerical_error
        return report.value, detail | ({"warnings": report.warnings} if report.warnings else {})


@dataclass(kw_only=True)
class InceptionScore(Metric):
    """Inception score.

    Attributes:
        splits: Number of splits over which scores are averaged.
    """

    splits: Count = 10
    better: Direction = "higher"

    classifies = True
    least = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sums: InceptionScoreSums | None = None

    def fault(self, num_samples: int) -> str | None:
        """Requires an image for each split."""
        return f"splits: {self.splits} of {num_samples} images" if self.splits > num_samples else None

    def for_samples(self, num_samples: int) -> Metric:
        """The same metric with at most as many splits as images."""
        return dataclasses.replace(self, splits=min(self.splits, num_samples))

    def update(self, output: Features, classes: torch.Tensor | None, first: int, num_samples: int) -> None:
        """Adds the class probabilities of a batch."""
        import torch

        from sida.eval.metrics.inception_score import InceptionScoreSums

        if output.logits is None:
            raise UserError("", f"extractor '{self.extractor}' has no class probabilities for the inception score")
        probabilities = torch.softmax(output.logits.double(), dim=1)
        if self._sums is None:
            self._sums = InceptionScoreSums(num_samples, self.splits, probabilities.shape[1], probabilities.device)
        self._sums.update(probabilities, first)

    def merge(self, other: Metric) -> None:
        """Adds the sums of another part."""
        assert isinstance(other, InceptionScore)
        if self._sums is None:
            self._sums = copy.deepcopy(other._sums)
        elif other._sums is not None:
            self._sums.merge(other._sums)

    def compute(self, sides: Sides) -> MetricValue:
        """The mean over splits, with their spread as a detail."""
        assert self._sums is not None  # a whole trial has images
        score = self._sums.score()
        details: dict[str, Any] = {"split_std": score.std}
        if self._sums.is_sorted():
            fault = "splits differ in their classes more than in a random order: the images seem to be sorted"
            details["warnings"] = [f"{fault} by class, which lowers the score; shuffle them, or say --groups classes"]
        return score.mean, details


@dataclass(kw_only=True)
class _Neighbours(Metric):
    """Base class of the kinds that one search for neighbours gives.

    Attributes:
        k: Number of neighbours.
        dtype: Precision of the distances (difference 65).
        share: The kind's result of the search (:class:`sida.eval.metrics.precision_recall.NeighbourShares`).
    """

    k: Count = 3
    dtype: Literal["float32", "float16"] = "float32"
    better: Direction = "higher"

    share: ClassVar[str]
    generated = real = "features"
    least = 0.0
    most: ClassVar[float | None] = 1.0

    def fault(self, num_samples: int) -> str | None:
        """Requires more images than neighbours."""
        return f"k: {self.k} neighbours among {num_samples} images" if self.k >= num_samples else None

    def compute(self, sides: Sides) -> MetricValue:
        """The kind's result of the search, which all kinds share; the reference's nearest distance as a detail."""
        from sida.eval.metrics.precision_recall import neighbour_shares

        key = ("neighbours", self.extractor, self.reference, self.k, self.dtype)
        shares = sides.once(key, lambda: neighbour_shares(sides.real_features, sides.features, self.k, self.dtype))
        return float(getattr(shares, self.share)), {"reference": {"nearest_distance": shares.nearest_distance}}


@dataclass(kw_only=True)
class Precision(_Neighbours):
    """Share of generated images inside the manifold of real ones."""

    share = "precision"


@dataclass(kw_only=True)
class Recall(_Neighbours):
    """Share of real images inside the manifold of generated ones."""

    share = "recall"


@dataclass(kw_only=True)
class Density(_Neighbours):
    """Number of real neighbourhoods that hold a generated image, over k; about 1 for real images."""

    share, most = "density", None


@dataclass(kw_only=True)
class Coverage(_Neighbours):
    """Share of real images whose neighbourhood holds a generated image."""

    share = "coverage"


@dataclass(kw_only=True)
class Kernel(Metric):
    """Kernel distance (KID).

    Attributes:
        subsets: Number of subsets to average over.
        subset_size: Most images of a subset.
    """

    subsets: Count = 100
    subset_size: Annotated[int, Range(least=2)] = 1000

    generated = real = "features"

    def compute(self, sides: Sides) -> MetricValue:
        """The mean distance over subsets."""
        from sida.eval.metrics.kernel_distance import kernel_distance

        sets = sides.real_features, sides.features
        size = min(map(len, sets))
        fault = f"subsets have {size:,} images, not {self.subset_size:,}, since a set has no more"
        warnings = {"warnings": [fault]} if size < self.subset_size else {}
        return kernel_distance(*sets, self.subsets, self.subset_size, sides.seed), warnings


@dataclass(kw_only=True)
class Mean(Metric):
    """Mean of further metrics of the same trial, such as FDr6.

    Attributes:
        of: Keys of the metrics; their networks are the mean's networks.
    """

    of: tuple[str, ...]
    extractor: str = ""

    def compute(self, sides: Sides) -> MetricValue:
        """The mean; None if a metric has no value."""
        values = [sides.values.get(key) for key in self.of]
        if missing := [key for key, value in zip(self.of, values) if value is None]:
            return None, {"note": f"not measured: no {', '.join(missing)}"}
        return sum(filter(None, values), 0.0) / len(values), {}


@dataclass(kw_only=True)
class Accuracy(Metric):
    """Share of images that a classifier assigns to the requested class."""

    better: Direction = "higher"

    classifies = True
    least, most = 0.0, 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._correct = self._labelled = 0

    def update(self, output: Features, classes: torch.Tensor | None, first: int, num_samples: int) -> None:
        """Counts the correctly classified images of a batch.

        Raises:
            UserError: The extractor has no classes, or not the requested ones.
        """
        if classes is None:
            return
        if output.logits is None:
            raise UserError("", f"extractor '{self.extractor}' has no classes for accuracy")
        last = output.logits.shape[1] - 1
        if wrong := classes[(classes < 0) | (classes > last)].tolist():
            fault = f"an image has class {wrong[0]}, extractor '{self.extractor}' has the classes 0-{last}"
            raise UserError(self.key, fault, "correct the labels or leave them out")
        self._correct += int((output.logits.argmax(1).cpu() == classes.cpu()).sum())
        self._labelled += len(classes)

    def merge(self, other: Metric) -> None:
        """Adds the counts of another part."""
        assert isinstance(other, Accuracy)
        self._correct, self._labelled = self._correct + other._correct, self._labelled + other._labelled

    def compute(self, sides: Sides) -> MetricValue:
        """The share; None without requested classes."""
        if self._labelled != sides.num_samples:
            return None, {"note": "not measured: images without requested classes"}
        return self._correct / self._labelled, {}


METRIC_KINDS: Registry[type[Metric]] = Registry("metrics", "metric kind", "sida.eval.metrics.metric:Metric")
#: Rounding that a printed or summed value may have beyond a bound, relative.
_ROUNDED = 1e-6


def value_fault(settings: str, value: float) -> tuple[str, str] | None:
    """Fault and remedy of a value that a metric cannot have; None for a possible one, and for custom kinds.

    Args:
        settings: Kind and settings, as in :attr:`sida.eval.results.identity.Identity.settings`.
        value: The value.
    """
    kind, *words = settings.split() or [""]
    metric_kind = METRIC_KINDS.get(kind)
    if metric_kind is None:
        return None
    least, most, slack = metric_kind.least, metric_kind.most, _ROUNDED * max(1.0, abs(value))
    if most is None and metric_kind.classifies:
        # A score of classes is at most their number.
        entries = [EXTRACTORS.get(word.removeprefix("extractor=")) for word in words]
        most = next((entry.classes for entry in entries if entry is not None and entry.classes), None)
    if (least is None or value >= least - slack) and (most is None or value <= most + slack):
        return None
    limits = f"{least:g} to {most:g}" if most is not None else f"{least:g} or more"
    remedy = "give a share, not per cent" if most == 1 and 1 < value <= 100 else "measure it again"
    return f"is {exact(value)}, {kind} is {limits}", remedy


#: A metric of a protocol; the kind determines the settings.
AnyMetric = Annotated[Metric, Variants("kind", lambda: METRIC_KINDS, METRIC_KINDS.find)]
