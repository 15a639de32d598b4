"""What a metric kind is: a class that says what it needs, what its digest covers, and how its value is computed.

Ours are in :mod:`eval.measuring.kinds`. One of one's own is named ``module:object`` in a protocol, as in
``docs/examples/coverage.py``. The fields of a kind are settings of a metric in the protocol, and part of the digest.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from sida.config.plugins import source_sha256
from sida.config.ranges import names_object

if TYPE_CHECKING:
    # Protocols are read when the workflow starts, which must not wait for torch.
    import torch

    from eval.features.extraction import Features
    from eval.measuring.reference_files import Moments
    from eval.statistics import FeatureStatistics

T = TypeVar("T")
Direction = Literal["lower", "higher"]
#: A value (None: it could not be measured), and what is needed to judge it.
MetricValue = tuple[float | None, dict[str, Any]]


@dataclass(kw_only=True)
class Metric(abc.ABC):
    """One number of a protocol; a kind is a subclass. An instance gathers the sums of one trial, or of a shard of it.

    Attributes:
        key: Name in measurements, e.g. ``fid``.
        kind: One of ours (``docs/protocol.md``, "Metric kinds"), or ``module:object``.
        extractor: Feature network: one of ours, or ``module:object``.
        reference: Key of the protocol's references; None where the kind needs none.
        label: For people, e.g. ``FID``.
        better: Which direction is good.
        decimals: Digits after the point in rows.
        generated: What a trial keeps of the generated images for this kind: ``moments`` (mean and covariance of the
            features, in constant memory), ``features`` (all of them), or None.
        real: The same of real images; with it a metric needs a ``reference``.
        selects: Whether a training may choose its network by the lowest value.
        classifies: Whether it is computed from the extractor's class probabilities.
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

    def __post_init__(self) -> None:
        if self.real is not None and self.reference is None:
            raise ValueError(f"reference: a metric of kind '{self.kind}' needs one")

    @property
    def references(self) -> tuple[str, ...]:
        """Keys of all references that it is computed from; a kind of several adds to ``reference``."""
        return () if self.reference is None else (self.reference,)

    def facts(self) -> dict[str, Any]:
        """What can change the number: kind, network, reference, the settings of the kind, and code of one's own."""
        facts: dict[str, Any] = {"kind": self.kind, "extractor": self.extractor}
        if self.real is not None:
            facts["reference"] = self.reference
        common = {field.name for field in dataclasses.fields(Metric)}
        facts |= {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in common}
        return facts | ({"code": source_sha256(type(self))} if names_object(self.kind) else {})

    def fault(self, num_samples: int) -> str | None:
        """Why trials of so many images cannot be measured, as ``key: what is wrong``; None where nothing says so."""
        return None

    def for_samples(self, num_samples: int) -> Metric:
        """The same metric for trials of so many images, which may allow for fewer parts of them."""
        return self

    def update(  # noqa: B027 - optional
        self, output: Features, classes: torch.Tensor | None, first: int, num_samples: int
    ) -> None:
        """Adds a batch to sums of the kind's own; most kinds have none.

        Args:
            output: Features and logits of the metric's extractor.
            classes: Classes that were asked for, int64 (B,), or None where there are none.
            first: Index of the batch's first image within the trial.
            num_samples: Images of the whole trial.
        """

    def merge(self, other: Metric) -> None:  # noqa: B027 - optional
        """Adds the own sums of another shard of the same trial, in any order."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Own sums as named tensors, for a shard's file."""
        return {}

    def counts(self) -> dict[str, int]:
        """Own counts, which may depend on the extractor only: metrics with the same one share them in a file."""
        return {}

    def restore(  # noqa: B027 - optional
        self, tensors: Mapping[str, torch.Tensor], counts: Mapping[str, int]
    ) -> None:
        """The inverse of :meth:`tensors` and :meth:`counts`."""

    @abc.abstractmethod
    def compute(self, sides: Sides) -> MetricValue:
        """The value of a whole trial, and details by name.

        Raises:
            UserError: It cannot be computed of these images.
        """


class Sides:
    """What a metric is computed from; each part is there if its kind asks for it by ``generated`` or ``real``.

    Args:
        metric: Whose extractor is meant.
        sums: The trial (:class:`eval.measuring.trial.TrialSums`, which imports this module).
        references: The data sides by key (:class:`eval.measuring.references.Reference`).
        device: Where features are given.
        once: What metrics of the trial have computed for each other.
    """

    def __init__(
        self,
        metric: Metric,
        sums: Any,
        references: Mapping[str, Any],
        device: str | torch.device,
        once: dict[Any, Any],
    ) -> None:
        self._extractor, self._sums, self._reference = metric.extractor, sums, metric.reference
        self._references, self._device, self._once = references, device, once

    @property
    def num_samples(self) -> int:
        """Generated images of the trial."""
        return self._sums.protocol.num_samples

    @property
    def cov_ddof(self) -> int:
        """Divisor N − ddof of the generated covariance."""
        return self._sums.protocol.cov_ddof

    @property
    def seed(self) -> int:
        """For subsets: the same in every trial."""
        return self._sums.protocol.seed0

    @property
    def statistics(self) -> FeatureStatistics:
        """Sums of the generated features (``generated = "moments"``)."""
        return self._sums.statistics[self._extractor]

    @property
    def features(self) -> torch.Tensor:
        """Generated features float32 (N, C) in the order of the images (``generated = "features"``)."""
        return self._sums.features(self._extractor).to(self._device)

    @property
    def real_moments(self) -> Moments:
        """Mean (C,), covariance (C, C) and number of real images or None (``real = "moments"``)."""
        return self._real.moments(self._extractor)

    @property
    def real_features(self) -> torch.Tensor:
        """Real features float32 (M, C) (``real = "features"``)."""
        return self._real.features(self._extractor).to(self._device)

    def features_of(self, reference: str) -> torch.Tensor:
        """Real features float32 (M, C) of another of the metric's :attr:`Metric.references`."""
        return self._references[reference].features(self._extractor).to(self._device)

    @property
    def _real(self) -> Any:
        assert self._reference is not None  # the metric checks this
        return self._references[self._reference]

    def once(self, key: tuple[Any, ...], function: Callable[[], T]) -> T:
        """The function's value, computed once for all metrics of the trial that give this key."""
        if key not in self._once:
            self._once[key] = function()
        value: T = self._once[key]
        return value
