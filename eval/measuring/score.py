"""Scores image files and generators under a protocol, with the code and checks of the workflow's measurements."""

import contextlib
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida import machine
from sida.assets.cache import cache_dir
from sida.data.dataset import Sketch
from sida.errors import counted, say
from sida.eval.measuring.measure import Measurer, TrialRecords
from sida.eval.measuring.protocol import Protocol
from sida.eval.measuring.score_plan import Scored, ScorePlan, plan_score
from sida.eval.measuring.stores import ImageStore
from sida.eval.measuring.trial import cpu_threads
from sida.eval.metrics.metric import Metric
from sida.eval.results.identity import Identity, read_exposure
from sida.eval.results.measurements import Estimate
from sida.eval.results.sheet import official_exposure
from sida.eval.results.trial_files import read_measurement, record_identity, trial_path
from sida.files.atomic import sha256_json
from sida.methods.method import Exposure


@dataclass(frozen=True)
class Score:
    """Result of a score: the values of all trials by metric.

    Attributes:
        name: Label of the images.
        protocol: Protocol of the measurement.
        records: One measurement per trial, in the form of ``sida measure``.
        remarks: Remarks on the images for the report.
        family: Group of the row in tables.
        nfe: Network evaluations per image.
        against: Name of the second set of a comparison; None for a score with the protocol's references.
        unfinished: Folder of the records of finished trials, with which an interrupted call resumes; None without one.
    """

    name: str
    protocol: Protocol
    records: Sequence[Mapping[str, Any]]
    remarks: tuple[str, ...] = ()
    family: str = ""
    nfe: int | None = None
    against: str | None = None
    unfinished: Path | None = None

    def forget_trials(self) -> None:
        """Removes the records of the trials; for callers that have written the result.

        Hidden files stay: another score of equal images may be writing there.
        """
        if self.unfinished is not None:
            # Files come before their folders.
            for path in [*sorted(self.unfinished.rglob("[!.]*"), reverse=True), self.unfinished]:
                with contextlib.suppress(OSError):
                    path.rmdir() if path.is_dir() else path.unlink()

    def values(self, key: str) -> list[float]:
        """Values of a metric over trials; empty if it could not be measured."""
        return [record["metrics"][key] for record in self.records if key in record["metrics"]]

    def identity(self, key: str) -> Identity | None:
        """Identity of a metric's values, and the exposure of its generator; None if it could not be measured."""
        if not self.values(key):
            return None
        record = self.records[0]
        exposure, held_out = read_exposure(record.get("saw", "")), record.get("held_out", {}).get(key, "")
        return dataclasses.replace(record_identity(record, key), exposure=exposure, held_out=held_out)

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
            if values := self.values(metric.key):
                estimate = Estimate.of(values)
                moments = {key: getattr(estimate, key) for key in ("mean", "std", "standard_error")}
                result[metric.key] = {**moments, "min": min(values), "max": max(values), "values": values}
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
        } | ({"against": self.against} if self.against else {})

    def lines(self) -> list[str]:
        """The result as lines for people."""
        n, count = self.protocol.num_samples, len(self.records)
        trials = counted(count, "trial")
        lines = [f"{self.name}: protocol '{self.protocol.name}', {trials} of {n:,} images"]
        if self.against:
            lines = [f"{self.name} against {self.against}: protocol '{self.protocol.name}', {n:,} images"]
        arrows = {"lower": "↓", "higher": "↑"}
        labels = {m.key: f"  {m.label or m.key} {arrows[m.better]}" for m in self.protocol.metrics}
        width, compared = max(18, *map(len, labels.values())), dict[str, None]()
        for metric in self.protocol.metrics:
            values, label = self.values(metric.key), f"{labels[metric.key]:<{width}}"
            if not values:
                detail = self.records[0]["details"].get(metric.key, {})
                lines.append(f"{label} {detail.get('note', 'not measured')}")
                continue
            number, spread = f"{{:,.{metric.decimals}f}}".format, self.spread(metric)
            text = f"{label} {number(sum(values) / len(values))}"
            if spread is not None:
                text += f" ± {number(spread)}"
            if len(values) > 1:
                text += f"   (min {number(min(values))}, max {number(max(values))})"
            identity = self.identity(metric.key)
            if self.against and identity:
                text += f"   identity {identity.sha256[:12]}"
                network = f"feature network {metric.extractor} {identity.extractor[:12]}"
                compared[f"  {network}, reference {identity.reference[:12]}"] = None
            lines.append(text)
        lines += compared
        lines += self._geometry()
        return lines + [f"  note: {warning}" for warning in self.warnings()]

    def _geometry(self) -> list[str]:
        """A line with the geometry of the references, on which the size of a distance depends; none without one."""
        values: dict[str, dict[str, None]] = {}
        for metric in self.protocol.metrics:
            for name, value in self.records[0]["details"].get(metric.key, {}).get("reference", {}).items():
                values.setdefault(name.replace("_", " "), {})[f"{value:.4g} ({metric.extractor})"] = None
        parts = [f"{name} {', '.join(numbers)}" for name, numbers in values.items()]
        return [f"  reference: {'; '.join(parts)}"] if parts else []

    def warnings(self) -> list[str]:
        """Warnings about the numbers, each sentence once."""
        of_metrics = [
            f"{metric.label or metric.key}: {warning}"
            for metric in self.protocol.metrics
            for record in self.records
            for warning in record["details"].get(metric.key, {}).get("warnings", [])
        ]
        fewer = len(self.records) < self.protocol.trials
        short = [f"{len(self.records)} of the protocol's {self.protocol.trials} trials were measured"] if fewer else []
        return list(dict.fromkeys([*short, *self.remarks, *of_metrics]))


#: Called with the identities of the values before the first image is drawn; raises an error where they do not fit.
CheckIdentities = Callable[[Mapping[str, Identity]], object]


def score_images(
    images: Scored,
    protocol: str | Path | Mapping[str, Any] | Protocol,
    *,
    fits: CheckIdentities | None = None,
    **options: Any,
) -> Score:
    """Measures images in files, or those that a function or network draws.

    Args:
        images: See :func:`sida.eval.measuring.score_plan.plan_score`.
        protocol: Name, path or content.
        fits: Check of the identities, e.g. whether a table takes them.
        **options: Keywords of :func:`sida.eval.measuring.score_plan.plan_score`.

    Raises:
        UserError: Images that cannot be measured under this protocol; the message names the file and the remedy.
    """
    return run_score(plan_score(images, protocol, **options), fits)


def run_score(plan: ScorePlan, fits: CheckIdentities | None = None) -> Score:
    """Measures the trials of a plan; arguments and errors as of :func:`score_images`."""
    measurer, trials = plan.measurer(), range(plan.trials)
    unfinished = _lasting_folder(measurer) if plan.resumes else None
    with cpu_threads(plan.spec.threads), tempfile.TemporaryDirectory() as scratch:
        job = TrialRecords(measurer, trials, folder := Path(scratch) / "trials", unfinished)
        finished = [trial for trial in trials if trial not in job.missing]
        records = {trial: read_measurement(trial_path(folder, trial)) for trial in finished}
        if finished:
            say(f"score: {len(finished)} of {plan.trials} trials are finished")
        if job.missing:
            # Faults of files, networks and references end the command before the second batch is drawn or read.
            measurer.begin(min(job.missing))
            _ = measurer.extractors, measurer.references
        if fits is not None:
            fits(measurer.identities)
        records |= job.measure(f"score {plan.spec.label}", interval=2)
    by_method = _exposure_of_method(measurer)
    trial_records = [{**records[trial], **_saw(records[trial], by_method, plan.saw)} for trial in trials]
    return Score(
        plan.spec.label,
        plan.protocol,
        trial_records,
        tuple(_remarks(plan, measurer)),
        plan.spec.family,
        plan.spec.nfe,
        None if plan.second is None else plan.second.path.name,
        unfinished,
    )


def _exposure_of_method(measurer: Measurer) -> Exposure | None:
    """Exposure by the method in a network's header; None if the method is not one of this suite."""
    return official_exposure(str(getattr(measurer.source, "metadata", {}).get("method")))


def _saw(record: Mapping[str, Any], by_method: Exposure | None, said: str | None) -> dict[str, str]:
    """Exposure of a record: the caller's words, which are about all parts, else that of the method and the parts."""
    if said is not None:
        return {"saw": said}
    parts = record.get("saw", "")
    of_parts = read_exposure(parts)
    if by_method is None or (parts and of_parts is None):
        return {}
    return {"saw": str(by_method | (of_parts or Exposure()))}


def _remarks(plan: ScorePlan, measurer: Measurer) -> Iterator[str]:
    """Remarks on the images and the references, after all of them were read."""
    if plan.files is not None:
        yield from plan.files.remarks
    name = "reference" if plan.second is None else "second set"
    for reference in measurer.references.values():
        yield from (f"{name}: {remark}" for remark in reference.remarks)
    if plan.second is not None:
        yield from _second_remarks(measurer, plan.files, plan.second)
    size = plan.protocol.num_samples
    if plan.files is not None and (rest := plan.files.count - plan.trials * size):
        yield f"{rest:,} images more than {plan.trials} × {size:,} were not measured"


def _second_remarks(measurer: Measurer, first: ImageStore | None, second: ImageStore) -> Iterator[str]:
    """Remarks on the second of two sets, as on the first set."""
    source = measurer.source
    for reference in measurer.references.values():
        share = (source.sketch or Sketch()).shared(reference.sketch or Sketch())
        if share and share[0]:
            yield f"the generator has seen {share[0]} of {share[1]} images of the second set that were looked for"
    if second.count < measurer.protocol.num_samples:
        yield f"second set: {second.count:,} images, fewer than the first set's {measurer.protocol.num_samples:,}"
    if first is not None and second.digest == first.digest:
        yield "both sets are the same images"
    shape = getattr(source, "shape", None) if first is None else first.read(0, 1).shape[1:]
    if shape is not None and (remark := measurer.unlike(shape)):
        yield remark


def _lasting_folder(measurer: Measurer) -> Path | None:
    """Folder in the cache for finished trials and parts, by everything that decides them; None if it cannot be made.

    Scores of equal images at once write equal files; one that ends removes them, and the others measure on.
    """
    facts = {"names": measurer.names(), "source": measurer.identity, "protocol": measurer.protocol.content()}
    digest = sha256_json({**facts, "code": machine.source_digest()})[:32]
    folder = cache_dir() / "scores" / digest
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder.parent, os.W_OK) else None
