"""Periodic evaluation during a training, whose settings name it ``sida.eval.measuring.monitor:make_monitor``.

The monitor measures like the trials of a protocol: all metrics that need no stored features, or the metrics of the
    protocol's key ``watch``. So curves over training show the same quantities as tables. The seeds of the monitor are
    far from the seeds of trials, so the kept network is chosen on other images than the final measurement's.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.data import load_dataset
from sida.errors import UserError
from sida.eval.features.base import Extractor
from sida.eval.features.registry import make_extractors
from sida.eval.measuring.measure import default_batch_size
from sida.eval.measuring.monitor_settings import MonitorSettings
from sida.eval.measuring.protocol import OF_ALL_TRIALS, Protocol, load_protocol
from sida.eval.measuring.references import Reference, data_digest, fixed_digests, load_references
from sida.eval.measuring.source import ImageBatch
from sida.eval.measuring.trial import TrialSums, compute_metrics, cpu_threads, run_pass
from sida.files.atomic import by_content
from sida.machine import tf32

Generate = Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor | None]]
#: Name of the monitor in digests of runs: its module when the first stored runs were made.
RECORDED_AS = "eval.monitor:make_monitor"
#: Fields of a protocol that concern its trials only.
_FINAL_ONLY = {*OF_ALL_TRIALS, "seed0"}


def make_monitor(dataset: Mapping[str, Any], **options: Any) -> Monitor:
    """Makes a monitor; reference statistics are of all images of the data set, or in the protocol's files.

    Args:
        dataset: Data-set spec.
        **options: The other arguments, see :class:`~sida.eval.measuring.monitor_settings.MonitorSettings`;
            ``protocol`` may be a :class:`~sida.eval.measuring.protocol.Protocol`.

    Raises:
        UserError: Bad arguments, or references that cannot be found.
    """
    settings = MonitorSettings(dataset=dict(dataset), **options)
    watched = _watched_protocol(load_protocol(settings.protocol))
    n = watched.num_samples if settings.num_samples is None else settings.num_samples
    if n < 2 or settings.trials < 1 or (settings.batch_size is not None and settings.batch_size < 1):
        raise UserError("evaluation", "num_samples must be at least 2, trials and batch_size at least 1")
    watched = dataclasses.replace(watched, num_samples=n, trials=settings.trials, seed0=settings.seed0)
    extractors = make_extractors(watched.extractors(), settings.device, settings.extractors)
    with cpu_threads(settings.threads):
        references = load_references(watched, extractors, settings.references, lambda: load_dataset(dataset))
    size = settings.batch_size or default_batch_size(watched, small=500)
    return Monitor(watched, extractors, references, size, settings.device, settings.threads)


def monitor_facts(
    protocol: Any = MonitorSettings.protocol, dataset: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Content that decides the numbers of :func:`make_monitor`, which has the same arguments.

    Only the parts of the protocol that a monitor uses count: a new recall, or more trials, start no new training.

    Args:
        protocol: Name, path or content.
        dataset: Data-set spec, read for its digest; None if the caller adds the digest of the data.
        options: The other arguments; files count by their bytes.

    Raises:
        UserError: A protocol or data set that cannot be read.
    """
    unused = _FINAL_ONLY | ({"num_samples"} if options.get("num_samples") is not None else set())
    watched = _watched_protocol(load_protocol(protocol))
    facts = {key: value for key, value in watched.recorded_facts().items() if key not in unused}
    facts["selection"] = watched.selection_key
    data = None if dataset is None else data_digest(load_dataset(dataset))
    fixed = {"references": digests} if (digests := fixed_digests(watched)) else {}
    return {**by_content(options), "protocol": facts, "dataset": data, **fixed}


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A callable that evaluates a generator during training (:func:`make_monitor`).

    Attributes:
        protocol: Metrics to measure; its trials are the trials of an evaluation.
        extractors: Feature networks of the protocol.
        references: References of the protocol.
        batch_size: Images per call of the generator.
        device: Torch device of sums and distances.
        threads: CPU threads during an evaluation; 0 changes nothing.
    """

    protocol: Protocol
    extractors: Mapping[str, Extractor]
    references: Mapping[str, Reference]
    batch_size: int
    device: str
    threads: int

    @property
    def rounds(self) -> bool:
        """Whether bytes of decoded latents are rounded."""
        return self.protocol.rounds

    def __call__(self, generate: Generate) -> dict[str, Any]:
        """Evaluates a generator.

        Args:
            generate: ``generate(seeds) -> (uint8 images (N, C, H, W), classes int64 (N,) or None)``.

        Returns:
            ``selection`` (key of the metric that determines the kept network; lower is better), ``num_samples``, and
            for each metric ``<key>`` (mean over trials), ``<key>_std`` (sample standard deviation, 0 for one trial) and
            ``<key>_trials``. Accuracy is left out for networks without classes.
        """
        return self.join([self.part(generate, 0, 1)])

    def part(self, generate: Generate, number: int, count: int) -> list[TrialSums]:
        """Sums of each trial over every ``count``-th batch, from batch ``number`` on: one process's part of a call."""
        with cpu_threads(self.threads), torch.no_grad():
            return [self._sums(generate, trial, number, count) for trial in range(self.protocol.trials)]

    def join(self, parts: Sequence[Sequence[TrialSums]]) -> dict[str, Any]:
        """Record of a call from all its parts; the number of parts changes rounding only."""
        with cpu_threads(self.threads), tf32(self.protocol.allow_tf32), torch.no_grad():
            trials = [self._values([part[trial] for part in parts]) for trial in range(self.protocol.trials)]
        record: dict[str, Any] = {"selection": self.protocol.selection_key, "num_samples": self.protocol.num_samples}
        for key in trials[0]:
            values = [trial[key] for trial in trials]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            record |= {key: statistics.fmean(values), f"{key}_std": spread, f"{key}_trials": values}
        return record

    def _sums(self, generate: Generate, trial: int, number: int, count: int) -> TrialSums:
        first, last = self.protocol.seeds(trial)
        size = self.batch_size
        # Batches are dealt to processes in turn, so an image's seed does not depend on their number.
        begins = range(first + number * size, last + 1, count * size)
        draws = (generate(range(begin, min(begin + size, last + 1))) for begin in begins)
        batches = (ImageBatch.of(images, classes) for images, classes in draws)
        sums = TrialSums(self.protocol, self.device)
        return run_pass(batches, self.extractors, sums, first=number * size, skipped=(count - 1) * size)

    def _values(self, parts: Sequence[TrialSums]) -> dict[str, float]:
        total = parts[0]
        for part in parts[1:]:
            total.merge(part)
        return compute_metrics(total, self.references)[0]


def _watched_protocol(protocol: Protocol) -> Protocol:
    """The protocol with only the metrics that a monitor measures, and their references.

    Raises:
        UserError: No metric can choose a network.
    """
    if protocol.selection_key is None:
        raise UserError(f"protocol '{protocol.name}'", "has no metric of kind 'frechet' to watch during training")
    return dataclasses.replace(protocol, metrics=protocol.watched)
