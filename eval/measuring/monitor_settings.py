"""Name and arguments of the monitor, which measures a generator during its training.

This module does not import torch, for presets and specs.
"""

import dataclasses
from typing import Annotated, Any

from sida.config.settings import Count, Device, Natural, Range

#: The monitor in specs of trainings.
MONITOR = "sida.eval.measuring.monitor:make_monitor"
#: First seed of a monitor's images, far from the seeds of trials.
SEED0 = 1 << 31


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Arguments of :func:`sida.eval.measuring.monitor.make_monitor`.

    Attributes:
        dataset: Data-set spec.
        protocol: Name, path or content. Its Fréchet distances, inception scores and accuracies are measured, or the
            metrics of ``watch``; its ``selection`` determines the kept network.
        num_samples: Images per trial; null takes the protocol's n.
        trials: Number of trials, over which means are taken.
        seed0: First image seed: trial r uses ``seed0 + r·n …``.
        batch_size: Images per call of the generator; null takes 500, fewer for large images.
        device: Torch device of feature networks.
        threads: CPU threads during an evaluation; 0 changes nothing.
        references: Files by reference key.
        extractors: Options by extractor name.
    """

    dataset: dict[str, Any]
    protocol: str | dict[str, Any] = "digits"
    num_samples: Annotated[int, Range(least=2)] | None = None
    trials: Count = 1
    seed0: Natural = SEED0
    batch_size: Count | None = None
    device: Device = "cpu"
    threads: Natural = 0
    references: dict[str, str] | None = None
    extractors: dict[str, dict[str, Any]] | None = None
