"""Scatter of training: standard deviation over trainings of one recipe; files ``config/retraining/*.yaml``."""

import functools
from dataclasses import dataclass
from typing import Annotated

from sida.config.named_files import find_file
from sida.config.settings import Natural, Range, from_mapping, load_yaml

#: Degrees of freedom of a variance that is taken from a publication.
KNOWN = 1e9


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Scatter of training: how far a metric differs when a network is trained again with another seed.

    Attributes:
        std: Relative standard deviation by metric; single trainings are not compared by a metric that is not listed.
        source: Its source.
        df: Degrees of freedom of a measured standard deviation; 0 for one that is taken from a publication.
    """

    std: dict[str, Annotated[float, Range(least=0, most=10)]]
    source: str
    df: Natural = 0

    def variance(self, metric: str, mean: float) -> tuple[float, float] | None:
        """Variance of a single training's mean, and its degrees of freedom; None if the metric's scatter is unknown."""
        std = self.std.get(metric)
        return None if std is None else ((std * mean) ** 2, self.df or KNOWN)


@functools.cache
def load_retraining(name: str) -> Retraining:
    """Reads a file by its path, or by its name in ``config/retraining``.

    Raises:
        UserError: No such file, or a faulty one.
    """
    path = find_file("retraining", name)
    return from_mapping(Retraining, load_yaml(path), str(path))
