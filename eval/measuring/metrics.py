"""From the sums of a trial and the reference to the values of a protocol's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from eval.extrapolation import frechet_infinity
from eval.frechet import frechet_report
from eval.kernel_distance import kernel_distance
from eval.measuring.protocol import Metric
from eval.measuring.references import Reference
from eval.measuring.trial import TrialSums
from eval.precision_recall import PrecisionRecall, precision_recall
from sida.errors import UserError


def compute_metrics(
    sums: TrialSums, references: Mapping[str, Reference], device: str | torch.device = "cpu"
) -> tuple[dict[str, float], dict[str, Any]]:
    """Values of all metrics of the protocol, and what is needed to judge them.

    Args:
        sums: A whole trial.
        references: Data sides by the protocol's reference keys.
        device: Where distances between features are computed.

    Returns:
        ``(values, details)`` by metric key. Accuracy is left out when no classes were asked for (an unconditional
        generator); ``details`` then says so.

    Raises:
        UserError: A trial with missing images, or a reference that does not fit.
    """
    gaps = sums.missing()
    if gaps:
        listed = ", ".join(f"{begin}-{end - 1}" for begin, end in gaps[:5])
        raise UserError(f"trial is incomplete: images {listed} are missing; measure these shards and merge again")
    neighbours: dict[tuple[Any, ...], PrecisionRecall] = {}
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    for metric in sums.protocol.metrics:
        reference = references[metric.reference] if metric.reference is not None else None
        value, detail = _compute(metric, sums, reference, neighbours, device)
        if value is not None:
            values[metric.key] = value
        if detail:
            details[metric.key] = detail
    return values, details


def _compute(
    metric: Metric,
    sums: TrialSums,
    reference: Reference | None,
    neighbours: dict[tuple[Any, ...], PrecisionRecall],
    device: str | torch.device,
) -> tuple[float | None, dict[str, Any]]:
    name = metric.extractor
    if metric.kind == "inception_score":
        score = sums.scores[metric.key].score()
        return score.mean, {"split_std": score.std}
    if metric.kind == "accuracy":
        if sums.labelled.get(name, 0) != sums.protocol.num_samples:
            return None, {"note": "not measured: images without requested classes"}
        return sums.correct[name] / sums.labelled[name], {}
    assert reference is not None  # the protocol checks this
    if metric.kind == "frechet":
        return _frechet(sums, reference, name)
    real, generated = (rows.to(device) for rows in (reference.features(name), sums.features(name)))
    if metric.kind == "kernel":
        return kernel_distance(real, generated, seed=sums.protocol.seed0), {}
    if metric.kind == "frechet_infinity":
        mean, cov, _ = reference.moments(name)
        fit = frechet_infinity(generated, mean, cov, ddof=sums.protocol.cov_ddof, seed=sums.protocol.seed0)
        return fit.value, {"by_n": fit.by_n}
    key = (name, metric.reference, metric.k, metric.dtype)
    if key not in neighbours:
        neighbours[key] = precision_recall(real, generated, metric.k, metric.dtype)
    return float(getattr(neighbours[key], metric.kind)), {}


def _frechet(sums: TrialSums, reference: Reference, name: str) -> tuple[float, dict[str, Any]]:
    statistics = sums.statistics[name]
    mean, cov, count = reference.moments(name)
    report = frechet_report(statistics.mean, statistics.cov, mean, cov, counts=(statistics.count, count))
    detail: dict[str, Any] = {
        "mean_term": report.mean_term,
        "ranks": list(report.ranks),
        "numerical_error": report.numerical_error,
    }
    if report.warnings:
        detail["warnings"] = report.warnings
    return report.value, detail
