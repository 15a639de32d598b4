"""Metric kinds: squared MMD with a Gaussian kernel, sliced distance, FDr, and nearness to the training images."""

from dataclasses import dataclass
from typing import Literal

from sida.config.settings import Count, Natural, Positive
from sida.errors import SettingError
from sida.eval.metrics.metric import Metric, MetricValue, Sides


@dataclass(kw_only=True)
class GaussianMMD(Metric):
    """Squared MMD with a Gaussian kernel over all pairs (CMMD).

    Attributes:
        sigma: Width of the kernel.
        scale: Factor on the value.
        unit_length: Whether features are divided by their length.
    """

    sigma: Positive = 10.0
    scale: Positive = 1000.0
    unit_length: bool = True

    generated = real = "features"

    def compute(self, sides: Sides) -> MetricValue:
        """The distance."""
        from sida.plugins.judges.gaussian import gaussian_distance

        sets = sides.real_features.double(), sides.features.double()
        if self.unit_length:
            sets = sets[0] / sets[0].norm(dim=1, keepdim=True), sets[1] / sets[1].norm(dim=1, keepdim=True)
        return self.scale * gaussian_distance(*sets, self.sigma), {}


@dataclass(kw_only=True)
class Sliced(Metric):
    """Sliced Wasserstein distance 3d·SW₂² (MIND).

    Attributes:
        directions: Number of random directions; it changes the value.
        seed: Seed of the directions, and of the rows that count if the sets differ in size.
    """

    directions: Count = 1000
    seed: Natural = 2020

    generated = real = "features"
    least = 0.0

    def compute(self, sides: Sides) -> MetricValue:
        """The distance."""
        from sida.plugins.judges.sliced import sliced_distance

        return sliced_distance(sides.real_features, sides.features, self.directions, self.seed), {}


@dataclass(kw_only=True)
class Ratio(Metric):
    """Fréchet distance divided by the distance of held-out real images (FDr); one of the two settings.

    Attributes:
        held_out: Key of the reference with held-out real images.
        normaliser: A printed distance of held-out images, instead of a measured one.
    """

    held_out: str | None = None
    normaliser: Positive | None = None

    generated = real = "moments"
    least = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.held_out is None) == (self.normaliser is None):
            raise SettingError("held_out", "needs either held_out or a printed normaliser", "give one of the two")

    @property
    def references(self) -> tuple[str, ...]:
        """Keys of the reference and of the held-out images."""
        return (*super().references, *([self.held_out] if self.held_out else []))

    def compute(self, sides: Sides) -> MetricValue:
        """The ratio, with both distances as details."""
        from sida.eval.metrics.frechet import moments_report

        def distance() -> float:
            return moments_report(sides.statistics.moments, sides.real_moments).value

        def of_held_out() -> float:
            report = moments_report(sides.moments_of(str(self.held_out)), sides.real_moments)
            # The distance of a set to itself is rounding.
            return report.value if report.value > report.numerical_error else 0.0

        distances = sides.once(("distance", self.extractor, self.reference), distance)
        floor = self.normaliser or sides.once(("floor", self.extractor, self.references), of_held_out)
        if not floor:
            return None, {"note": "not measured: the held-out images are the reference"}
        return distances / floor, {"distance": distances, "normaliser": floor}


@dataclass(kw_only=True)
class Memorisation(Metric):
    """Nearness to the training images, compared with held-out images: 0.5 for new images, 1 for copies.

    Attributes:
        held_out: Key of the reference with held-out real images; ``reference`` has the training images.
        statistic: ``share``: P(nearer than a held-out image), ties count half; ``ratio``: median distance of generated
            images divided by the median of held-out ones, 1 for new images; ``tail``: share nearer than 95 % of the
            held-out images, 0.05 for new images.
    """

    held_out: str
    statistic: Literal["share", "ratio", "tail"] = "share"

    generated = real = "features"
    least = 0.0

    @property
    def references(self) -> tuple[str, ...]:
        """Keys of the training and the held-out images."""
        return (*super().references, self.held_out)

    def compute(self, sides: Sides) -> MetricValue:
        """The statistic, with the other statistics and the test's z as details."""
        from sida.plugins.judges.memorisation import memorisation

        def find() -> dict[str, float]:
            return memorisation(sides.features, sides.real_features, sides.features_of(self.held_out))._asdict()

        statistics = sides.once(("memorisation", self.extractor, self.references), find)
        if not statistics["median_held_out"]:
            return None, {"note": "not measured: most held-out images are training images"}
        return statistics[self.statistic], dict(statistics)
