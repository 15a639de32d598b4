"""How far variants of a feature network lie from the published way, on anyone's images.

Each measures the same trials against the same references. A difference that is small beside the spread over trials
counts for little: other seeds would make as much.
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
    """A metric through one feature network.

    Attributes:
        metric: Key in the protocol.
        extractor: The network.
        mean: Mean over trials.
        difference: Mean over trials of the difference from the first network.
        share: Its size as a share of the first one's sample standard deviation over trials; None where that is 0.
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
    """Measures the metrics that a protocol takes from the first network with each of the networks.

    Args:
        images: See :func:`eval.measuring.score.score_images`; so are ``trials`` and ``num_samples``.
        protocol: Name, path or content.
        extractors: The protocol's feature network, then its variants.
        trials: At least 2: their spread is the measure.
        num_samples: Another n.
        extractor_options: Options by extractor.
        **settings: Other arguments of :func:`~eval.measuring.score.score_images`.

    Raises:
        UserError: Networks or trials as above are not there, or images that cannot be measured.
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
            dataclasses.replace(asked, metrics=changed, selection=None),
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
