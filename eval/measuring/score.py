"""Scores image files under a protocol, with the same code and checks as for generators of this suite."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.measuring.images import ImageFiles
from eval.measuring.measure import Measurer, threads
from eval.measuring.metric import Metric
from eval.measuring.protocol import Protocol, load_protocol
from eval.measuring.spec import MeasureSpec
from eval.results.summary import Estimate
from sida.errors import UserError, suggestion
from sida.progress import Progress


@dataclass(frozen=True)
class Score:
    """Result of a score: the values of all trials by metric.

    Attributes:
        name: Label of the images.
        protocol: Protocol of the measurement.
        records: One measurement per trial, in the form of ``sida-eval measure``.
        remarks: Remarks on the images for the report.
        family: Group of the row in tables.
        nfe: Network evaluations per image.
    """

    name: str
    protocol: Protocol
    records: Sequence[Mapping[str, Any]]
    remarks: tuple[str, ...] = ()
    family: str = ""
    nfe: int | None = None

    def values(self, key: str) -> list[float]:
        """Values of a metric over trials; empty if it could not be measured."""
        return [record["metrics"][key] for record in self.records if key in record["metrics"]]

    def spread(self, metric: Metric) -> float | None:
        """Number after ±: spread over trials (the protocol's ddof), or over the splits of an inception score."""
        splits = [record["details"].get(metric.key, {}).get("split_std") for record in self.records]
        if self.protocol.is_spread == "splits" and None not in splits:
            return statistics.fmean(splits)
        values = self.values(metric.key)
        if len(values) < 2:
            return None
        return statistics.stdev(values) if self.protocol.ddof else statistics.pstdev(values)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, sample standard deviation, standard error, extremes and all values, by metric."""
        result = {}
        for metric in self.protocol.metrics:
            values = self.values(metric.key)
            if values:
                estimate = Estimate.of(values)
                result[metric.key] = {
                    "mean": estimate.mean,
                    "std": estimate.std,
                    "standard_error": estimate.standard_error,
                    "min": min(values),
                    "max": max(values),
                    "values": values,
                }
        return result

    def record(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "name": self.name,
            "protocol": self.protocol.record(),
            "trials": len(self.records),
            "summary": self.summary(),
            "warnings": self.warnings(),
            "measurements": list(self.records),
        }

    def lines(self) -> list[str]:
        """The result as lines for people."""
        n, count = self.protocol.num_samples, len(self.records)
        trials = "1 trial" if count == 1 else f"{count} trials"
        lines = [
            f"{self.name}: protocol '{self.protocol.name}' ({self.protocol.sha256[:12]}), {trials} of {n:,} images"
        ]
        for metric in self.protocol.metrics:
            values = self.values(metric.key)
            arrow = "↓" if metric.better == "lower" else "↑"
            label = f"  {metric.label or metric.key} {arrow}"
            if not values:
                lines.append(
                    f"{label:<18} {self.records[0]['details'].get(metric.key, {}).get('note', 'not measured')}"
                )
                continue
            text = f"{label:<18} {_number(sum(values) / len(values), metric.decimals)}"
            spread = self.spread(metric)
            if spread is not None:
                text += f" ± {_number(spread, metric.decimals)}"
            if len(values) > 1:
                text += f"   (min {_number(min(values), metric.decimals)}, max {_number(max(values), metric.decimals)})"
            lines.append(text)
        return lines + [f"  note: {warning}" for warning in self.warnings()]

    def warnings(self) -> list[str]:
        """Warnings about the numbers, each sentence once."""
        found = [
            f"{metric.label or metric.key}: {warning}"
            for metric in self.protocol.metrics
            for record in self.records
            for warning in record["details"].get(metric.key, {}).get("warnings", [])
        ]
        fewer = len(self.records) < self.protocol.trials
        short = [f"{len(self.records)} of the protocol's {self.protocol.trials} trials were measured"] if fewer else []
        return [*short, *self.remarks, *dict.fromkeys(found)]


def score_images(
    path: str | Path,
    protocol: str | Path | Mapping[str, Any] | Protocol,
    trials: int | None = None,
    num_samples: int | None = None,
    name: str | None = None,
    allow_duplicates: bool = False,
    **settings: Any,
) -> Score:
    """Measures image files under a protocol.

    Args:
        path: Folder, zip, tar, npz or npy. Trial t takes the images t·n … (t + 1)·n − 1 in the order of names.
        protocol: Name, path or content.
        trials: Number of disjoint trials; by default as many as the images allow, at most the protocol's number.
        num_samples: Images per trial, if not the protocol's n; the result is then not comparable.
        name: Label; the path's name by default.
        allow_duplicates: Accept equal images.
        **settings: Other fields of :class:`~eval.measuring.spec.MeasureSpec` (dataset, references, device, ...).

    Raises:
        UserError: Images that cannot be measured under this protocol; the message names the file and the remedy.
    """
    chosen = load_protocol(protocol)
    if num_samples is not None and num_samples != chosen.num_samples:
        if num_samples < 2:
            raise UserError(f"--num-samples: must be at least 2, got {num_samples}")
        fitting = tuple(metric.for_samples(num_samples) for metric in chosen.metrics)
        chosen = dataclasses.replace(
            chosen, name=f"{chosen.name}-n{num_samples}", num_samples=num_samples, metrics=fitting
        )
    used = {metric.extractor for metric in chosen.metrics}
    for unknown in [key for key in settings.get("extractors") or {} if key not in used]:
        fault = f"protocol '{chosen.name}' uses no feature network '{unknown}'{suggestion(unknown, used)}"
        raise UserError(f"--extractor-option: {fault}")
    files = ImageFiles(str(path), chosen)
    count = _trials(files, trials, str(path))
    if count > chosen.trials:
        chosen = dataclasses.replace(chosen, trials=count)
    label = name or Path(path).name
    try:
        spec = MeasureSpec(
            run=label,
            method="images",
            sampler={"kind": "images", "path": str(path), "allow_duplicates": allow_duplicates},
            protocol=chosen,
            label=label,
            **settings,
        )
    except ValueError as error:
        raise UserError(f"score: {error}") from None
    measurer = Measurer(spec, "score")
    progress = Progress(f"score {label}", count * chosen.num_samples, "img", interval=2)
    records = []
    with threads(spec.threads):
        for trial in range(count):
            sums = measurer.sums(trial, 0, chosen.num_samples, progress, trial * chosen.num_samples)
            records.append(measurer.record(trial, sums))
    assert isinstance(measurer.source, ImageFiles)
    return Score(label, chosen, records, measurer.source.store.remarks, spec.family, spec.nfe)


def _trials(images: ImageFiles, wanted: int | None, path: str) -> int:
    """Number of trials.

    Raises:
        UserError: Too few images.
    """
    n, present = images.protocol.num_samples, images.store.count
    if wanted is not None and wanted < 1:
        raise UserError(f"--trials: must be at least 1, got {wanted}")
    if images.trials < (wanted or 1):
        count = wanted or 1
        takes = f"{n:,} for each of {count} trials" if count > 1 else f"{n:,}"
        fits = present // count
        other = f", or give --num-samples {fits} (a number of its own, not comparable with the protocol's)"
        raise UserError(
            f"{path}: holds {present:,} images, protocol '{images.protocol.name}' takes {takes}; "
            f"generate {n * count - present:,} more{other if fits >= 2 else ''}"
        )
    return wanted if wanted is not None else min(images.trials, images.protocol.trials)


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else str(value)
