"""Examples of custom metric kinds: density and coverage (Naeem et al. 2020), which outliers spoil less.

A protocol names them as it names ours (docs/metrics.md):

    metrics:
      - {key: coverage, kind: "docs.examples.coverage:Coverage", extractor: digits, reference: data, k: 5}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sida.config.settings import Count
from sida.eval.metrics.metric import Direction, Metric, MetricValue, Sides
from sida.eval.metrics.precision_recall import radii

ROWS = 1024  # real images whose distances are held at a time


@dataclass(kw_only=True)
class Coverage(Metric):
    """Share of real images with a generated one nearer than their k-th real neighbour, 0..1.

    Attributes:
        k: Neighbours.
    """

    k: Count = 5
    better: Direction = "higher"

    # All features of both sides are kept for :meth:`compute`. Nothing else is asked of the images one by one, so there
    # is no `update`, `merge` and `tensors`.
    generated = real = "features"

    def compute(self, sides: Sides) -> MetricValue:
        """The share, and how many real images have none near."""
        near = self.neighbours(sides) > 0
        return float(near.double().mean()), {"uncovered": int((~near).sum())}

    def neighbours(self, sides: Sides) -> torch.Tensor:
        """How many generated images lie within the radius of each real one, int64 (M,)."""
        real, generated = sides.real_features, sides.features
        reach = radii(real, self.k)

        def count() -> torch.Tensor:
            parts = zip(real.split(ROWS), reach.split(ROWS))
            return torch.cat([(torch.cdist(rows, generated) < limit[:, None]).sum(1) for rows, limit in parts])

        # Density and coverage of one protocol count once.
        return sides.once(("coverage", self.extractor, self.reference, self.k), count)


@dataclass(kw_only=True)
class Density(Coverage):
    """How many real radii a generated image lies in, on average, in units of k; 1 for the data themselves."""

    def compute(self, sides: Sides) -> MetricValue:
        """The mean number over k."""
        return float(self.neighbours(sides).sum()) / (self.k * sides.num_samples), {}
