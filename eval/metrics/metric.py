"""The base class of metrics, and the data that a metric computes from."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from sida.config.lookup import source_sha256
from sida.config.settings import names_object
from sida.errors import SettingError

if TYPE_CHECKING:
    # The start of a workflow reads protocols and must not wait for torch.
    import torch

    from sida.eval.features.registry import Features
    from sida.eval.metrics.frechet import Moments
    from sida.eval.metrics.statistics import FeatureStatistics

T = TypeVar("T")
Direction = Literal["lower", "higher"]
#: A value (None: it could not be measured), and its details by name.
MetricValue = tuple[float | None, dict[str, Any]]


@dataclass(kw_only=True)
class Metric(abc.ABC):
    """A metric of a protocol; subclasses are kinds. An instance collects the sums of one trial, or of a part.

    Attributes:
        key: Name in measurements, e.g. ``fid``.
        kind: A kind of this package (``docs/metrics.md``), or ``module:object``.
        extractor: Feature network: a name of this package, or ``module:object``.
        reference: Key of the protocol's references; None for kinds without a reference.
        label: Name for people, e.g. ``FID``.
        better: Direction of better values.
        decimals: Digits after the point in tables.
        generated: Data of generated images that a trial keeps for this kind: ``moments`` (mean and covariance of the
            features, in constant memory), ``features`` (all of them), or None.
        real: Data of real images, with the same values; a metric with ``real`` needs a ``reference``.
        selects: Whether a training may choose its network by the lowest value.
        classifies: Whether the metric is computed from the extractor's class probabilities.
        least: Lowest possible value; None for no bound.
        most: Highest possible value; None for no bound.
    """

    key: str
    kind: str
    extractor: str
    reference: str | None = None
    label: str = ""
    better: Direction = "lower"
    decimals: int = 3

    generated: ClassVar[Literal["moments", "features"] | None] = None
    real: ClassVar[Literal["moments", "features"] | None] = None
    selects: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    least: ClassVar[float | None] = None
    most: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if self.real is not None and self.reference is None:
            raise SettingError("reference", f"a metric of kind '{self.kind}' needs one")

    @property
    def references(self) -> tuple[str, ...]:
        """Keys of all references of the metric; a kind with several references adds to ``reference``."""
        return () if self.reference is None else (self.reference,)

    def facts(self) -> dict[str, Any]:
        """Everything that can change the number: kind, network, settings of the kind, and custom code."""
        facts: dict[str, Any] = {"kind": self.kind, "extractor": self.extractor}
        common = {field.name for field in dataclasses.fields(Metric)}
        facts |= {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in common}
        return facts | ({"code": source_sha256(type(self))} if names_object(self.kind) else {})

    def fault(self, num_samples: int) -> str | None:
        """Reason why trials of ``num_samples`` images cannot be measured, ``key: what is wrong``; None if they can."""
        return None

    def for_samples(self, num_samples: int) -> Metric:
        """The metric for trials of ``num_samples`` images, which may need other settings, such as fewer splits."""
        return self

    def update(  # noqa: B027 - optional
        self, output: Features, classes: torch.Tensor | None, first: int, num_samples: int
    ) -> None:
        """Adds a batch to the custom sums of the kind; most kinds have none.

        Args:
            output: Features and logits of the metric's extractor.
            classes: Requested classes, int64 (B,), or None.
            first: Index of the batch's first image within the trial.
            num_samples: Number of images of the whole trial.
        """

    def merge(self, other: Metric) -> None:  # noqa: B027 - optional
        """Adds the custom sums of another part of the same trial."""

    @abc.abstractmethod
    def compute(self, sides: Sides) -> MetricValue:
        """Value of a whole trial, and details by name.

        Raises:
            UserError: The value cannot be computed from these images.
        """


@dataclass(frozen=True)
class Sides:
    """Generated and real data of a metric; each part exists if the kind requests it by ``generated`` or ``real``.

    Attributes:
        metric: The metric.
        sums: Sums of the trial (:class:`sida.eval.measuring.trial.TrialSums`).
        references: References by key (:class:`sida.eval.measuring.references.Reference`).
        device: Torch device of the features.
        shared: Values that metrics of the trial share, by key.
    """

    metric: Metric
    sums: Any
    references: Mapping[str, Any]
    device: str | torch.device
    shared: dict[Any, Any]

    @property
    def num_samples(self) -> int:
        """Number of generated images of the trial."""
        return self.sums.protocol.num_samples

    @property
    def seed(self) -> int:
        """Seed for subsets, equal in all trials."""
        return self.sums.protocol.seed0

    @property
    def statistics(self) -> FeatureStatistics:
        """Statistics of the generated features (``generated = "moments"``)."""
        return self.sums.statistics[self.metric.extractor]

    @property
    def features(self) -> torch.Tensor:
        """Generated features float32 (N, C) in the order of the images (``generated = "features"``)."""
        return self.sums.features(self.metric.extractor).to(self.device)

    @property
    def real_moments(self) -> Moments:
        """Mean (C,), covariance (C, C) and number of the real images (``real = "moments"``)."""
        return self.moments_of(str(self.metric.reference))

    @property
    def real_features(self) -> torch.Tensor:
        """Real features float32 (M, C) (``real = "features"``)."""
        return self.features_of(str(self.metric.reference))

    def features_of(self, reference: str) -> torch.Tensor:
        """Real features float32 (M, C) of a further reference of the metric (:attr:`Metric.references`)."""
        return self.references[reference].features(self.metric.extractor).to(self.device)

    def moments_of(self, reference: str) -> Moments:
        """Mean, covariance and number of the images of a further reference of the metric."""
        moments: Moments = self.references[reference].moments(self.metric.extractor)
        return moments

    @property
    def values(self) -> dict[str, float]:
        """Values of the trial's metrics that are computed already, by key."""
        return self.once(("values",), dict)

    def once(self, key: tuple[Any, ...], function: Callable[[], T]) -> T:
        """Value of the function, computed once for all metrics of the trial with this key."""
        if key not in self.shared:
            self.shared[key] = function()
        value: T = self.shared[key]
        return value
