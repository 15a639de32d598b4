"""The metric by which candidates are compared: a distance on few images, extrapolated, with the parts of its noise."""

from dataclasses import dataclass, replace
from typing import Annotated

from sida.config.settings import Count, Range
from sida.eval.metrics.metric import Metric, MetricValue, Sides


@dataclass(kw_only=True)
class Extrapolated(Metric):
    """A Fréchet distance at another number of images, by a delete-a-group jackknife.

    A distance d(n) of n images exceeds that of all images by c / n + O(1 / n²), and c depends on the generator. With
    the distances d₋ₖ without one of K equal parts, c / n ≈ (K − 1) (mean d₋ₖ − d(n)).

    Attributes:
        of: Key of the distance, which comes before this metric in its protocol.
        images: Number of images to which it is extrapolated.
        parts: Number of parts, K.
    """

    of: str
    images: Count
    parts: Annotated[int, Range(least=2)] = 10

    generated = "features"

    def fault(self, num_samples: int) -> str | None:
        """Requires two images in each part."""
        few = num_samples < 2 * self.parts
        return f"parts: {self.parts} of {num_samples} images; give more images" if few else None

    def compute(self, sides: Sides) -> MetricValue:
        """d(images), with the distances without each part as the detail ``without``, in the order of the images."""
        import torch

        from sida.eval.features.registry import Features
        from sida.eval.measuring.trial import TrialSums, compute_metrics

        value, without = sides.values[self.of], []
        parts = sides.features.tensor_split(self.parts)
        for left_out in range(self.parts):
            rows = torch.cat([part for number, part in enumerate(parts) if number != left_out])
            sums = TrialSums(replace(sides.sums.protocol.part([self.of]), num_samples=len(rows)), sides.device)
            sums.update({self.extractor: Features(rows, None)}, None, 0)
            without.append(compute_metrics(sums, sides.references)[0][self.of])
        bias = (self.parts - 1) * (sum(without) / self.parts - value)
        return value - (1 - sides.num_samples / self.images) * bias, {"without": without}
