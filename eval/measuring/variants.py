"""Compares variants of a feature network with the published network, on image files.

All variants measure the same trials against the same references. A difference much smaller than the spread over trials
does not matter, since other seeds change a number more.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.measuring.protocol import Protocol, load_protocol
from eval.measuring.score import score_images
from sida.errors import UserError


class VariantDifference(NamedTuple):
    """A metric computed with one feature network.

    Attributes:
        metric: Key in the protocol.
        extractor: Name of the feature network.
        mean: Mean over trials.
        difference: Mean over trials of the difference from the first network.
        share: Size of the difference as a share of the first network's sample standard deviation over trials; None if
            the standard deviation is 0.
    """

    metric: str
    extractor: str
    mean: float
    difference: float
    share: float | None


def compare_variants(
    images: str,
    protocol: str | Mapping[str, Any] | Protocol,
    extractors: Sequence[str],
    trials: int | None = None,
    num_samples: int | None = None,
    extractor_options: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> list[VariantDifference]:
    """Measures the metrics of the first network with each of the given networks.

    Args:
        images: See :func:`eval.measuring.score.score_images`.
        protocol: Name, path or content.
        extractors: The protocol's feature network, then its variants.
        trials: Number of trials, at least 2.
        num_samples: Images per trial, if not the protocol's n.
        extractor_options: Options by extractor.
        **settings: Other arguments of :func:`~eval.measuring.score.score_images`.

    Raises:
        UserError: Unknown networks, fewer than two networks or trials, or images that cannot be measured.
    """
    asked = load_protocol(protocol)
    metrics = [metric for metric in asked.metrics if metric.extractor in extractors[:1]]
    if not metrics or len(extractors) < 2:
        known = ", ".join(asked.extractors())
        raise UserError(
            f"variants: give a feature network of protocol '{asked.name}' ({known}) and then variants of it, "
            f"got {', '.join(extractors) or 'none'}"
        )
    values: dict[str, dict[str, list[float]]] = {}
    for name in extractors:
        changed = tuple(dataclasses.replace(metric, extractor=name) for metric in metrics)
        options = {name: dict((extractor_options or {}).get(name, {}))}
        score = score_images(
            images,
            dataclasses.replace(asked, metrics=changed, selection=None, watch=None),
            trials,
            num_samples,
            name=name,
            extractors=options,
            **settings,
        )
        if len(score.records) < 2:
            raise UserError(f"{images}: suffices for one trial, and their spread is the measure; give more images")
        values[name] = {metric.key: score.values(metric.key) for metric in metrics}
    first = values[extractors[0]]
    return [
        _difference(metric.key, name, first[metric.key], values[name][metric.key])
        for metric in metrics
        if first[metric.key]
        for name in extractors
    ]


def _difference(metric: str, extractor: str, published: Sequence[float], given: Sequence[float]) -> VariantDifference:
    spread = statistics.stdev(published)
    difference = statistics.fmean(theirs - ours for theirs, ours in zip(given, published))
    share = abs(difference) / spread if spread else None
    return VariantDifference(metric, extractor, statistics.fmean(given), difference, share)
