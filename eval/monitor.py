"""Periodic evaluation while a student is trained; training finds it by the name ``eval.monitor:make_monitor``.

The monitor draws its own seeds, far from those of the protocol's trials: the best checkpoint is chosen on images that
the final measurement never sees, although they come from the same generator.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from eval.features.extraction import extract, make_extractors, precision
from eval.frechet import frechet_distance
from eval.measure import threads as use_threads
from eval.protocol import Protocol, load_protocol
from eval.references import Reference, data_digest, from_dataset, load_references
from eval.statistics import FeatureStatistics
from sida.data import load_dataset
from sida.errors import UserError
from sida.io import by_content

Generate = Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor | None]]
SEED0 = 1 << 31
#: Fields of a protocol that speak about its own trials only.
_FINAL_ONLY = {"trials", "seed0", "is_spread", "ddof"}


def make_monitor(
    dataset: Mapping[str, Any],
    protocol: Any = "digits",
    num_samples: int | None = None,
    trials: int = 1,
    seed0: int = SEED0,
    extractor: str | None = None,
    batch_size: int = 500,
    device: str = "cpu",
    threads: int = 0,
    references: Mapping[str, str] | None = None,
    extractors: Mapping[str, Mapping[str, Any]] | None = None,
) -> Monitor:
    """Makes the monitor; reference statistics are those of all images of the data, or the protocol's files.

    Args:
        dataset: Data-set spec.
        protocol: Name, path or content; its first Fréchet metric is the one watched, with its ``cov_ddof``.
        num_samples: Images per trial; the protocol's n by default.
        trials: Repetitions with other seeds; their mean is ``fd``.
        seed0: First image seed: trial r uses ``seed0 + r·n …``.
        extractor: Another feature network than the metric's, compared with all images of the data.
        batch_size: Images per call of the generator.
        device: Where features are computed.
        threads: CPU threads while evaluating; 0 leaves them alone.
        references: Files by reference key.
        extractors: Options by extractor name.

    Raises:
        UserError: Bad arguments, or references that cannot be found.
    """
    chosen = _watched(load_protocol(protocol))
    metric = chosen.metrics[0]
    network = extractor or metric.extractor
    n = chosen.num_samples if num_samples is None else num_samples
    if n < 2 or trials < 1 or batch_size < 1:
        raise UserError("evaluation: num_samples must be at least 2, trials and batch_size at least 1")
    made = make_extractors([network], device, extractors)
    with use_threads(threads), precision(chosen.allow_tf32):
        if extractor is None:
            reference = load_references(chosen, made, references, lambda: load_dataset(dataset))[str(metric.reference)]
        else:
            reference = from_dataset(load_dataset(dataset), made, [network], [])
    return Monitor(made[network], reference, n, trials, seed0, batch_size, chosen.cov_ddof, chosen.allow_tf32, threads)


def monitor_facts(protocol: Any = "digits", dataset: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What decides the numbers of :func:`make_monitor` with the same arguments, by content; see its arguments.

    Of the protocol only what a monitor uses counts: another metric in it, or more trials, is no reason to train again.

    Args:
        protocol: Name, path or content.
        dataset: Data-set spec, read for its digest; None when the caller knows the data.
        options: The other arguments; files count by their bytes.

    Raises:
        UserError: A protocol or data set that cannot be read.
    """
    unused = _FINAL_ONLY | ({"num_samples"} if options.get("num_samples") is not None else set())
    facts = {k: v for k, v in _watched(load_protocol(protocol)).facts().items() if k not in unused}
    data = None if dataset is None else data_digest(load_dataset(dataset))
    return {**by_content(options), "protocol": facts, "dataset": data}


class Monitor:
    """``monitor(generate) -> {"fd", "fd_std", "fd_trials", "num_samples", ...}``; see :func:`make_monitor`."""

    def __init__(
        self,
        extractor: Any,
        reference: Reference,
        num_samples: int,
        trials: int,
        seed0: int,
        batch_size: int,
        cov_ddof: int,
        allow_tf32: bool,
        threads: int,
    ) -> None:
        self.extractor, self.reference = extractor, reference
        self.num_samples, self.trials, self.seed0, self.batch_size = num_samples, trials, seed0, batch_size
        self.cov_ddof, self.allow_tf32, self.threads = cov_ddof, allow_tf32, threads

    def __call__(self, generate: Generate) -> dict[str, Any]:
        """Evaluates a generator.

        Args:
            generate: ``generate(seeds) -> (uint8 images (N, C, H, W), classes int64 (N,) or None)``.

        Returns:
            ``fd`` (mean over trials), ``fd_std`` (sample standard deviation, 0 for one trial), ``fd_trials``,
            ``num_samples``, and ``accuracy`` of the requested class where the network has classes.
        """
        distances, hits, labelled = [], 0, 0
        with use_threads(self.threads), precision(self.allow_tf32), torch.no_grad():
            for trial in range(self.trials):
                first = self.seed0 + trial * self.num_samples
                sums = FeatureStatistics(ddof=self.cov_ddof, device=self.extractor.device)
                for begin in range(first, first + self.num_samples, self.batch_size):
                    images, classes = generate(range(begin, min(begin + self.batch_size, first + self.num_samples)))
                    output = extract(images, {"it": self.extractor})["it"]
                    sums.update(output.features)
                    # Networks without classes give none, or -1 (sida.sampling.NO_CLASS).
                    if output.logits is not None and classes is not None and int(classes[0]) >= 0:
                        hits += int((output.logits.argmax(1).cpu() == classes.cpu()).sum())
                        labelled += len(classes)
                mean, cov, _ = self.reference.moments(self.extractor.name)
                distances.append(frechet_distance(sums.mean, sums.cov, mean, cov))
        result: dict[str, Any] = {
            "fd": statistics.fmean(distances),
            "fd_std": statistics.stdev(distances) if len(distances) > 1 else 0.0,
            "fd_trials": distances,
            "num_samples": self.num_samples,
        }
        return result | ({"accuracy": hits / labelled} if labelled else {})


def _watched(protocol: Protocol) -> Protocol:
    """The protocol with one metric, the one watched, so that only its reference is loaded and counts."""
    metrics = [metric for metric in protocol.metrics if metric.kind == "frechet"]
    if not metrics:
        raise UserError(f"protocol '{protocol.name}': has no metric of kind 'frechet' to watch during training")
    return dataclasses.replace(protocol, metrics=tuple(metrics[:1]))
