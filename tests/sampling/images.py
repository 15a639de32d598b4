"""Images of a network by seed, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sida.sampling import Drawer, read_sampler
from sida.sampling.generate import Samples


def generate(
    net: torch.nn.Module | None,
    seeds: Sequence[int],
    sampler: Any = "one_step",
    batch_size: int = 128,
    class_labels: Any = "uniform",
    dataset: Any = None,
    gnet: torch.nn.Module | None = None,
    **attributes: Any,
) -> Iterator[Samples]:
    """``Drawer.draw`` of a new drawer, which decodes nothing unless ``decode`` is among its attributes."""
    drawer = Drawer(read_sampler(sampler), net, gnet, lambda: dataset)
    for name, value in {"decode": None, **attributes}.items():
        setattr(drawer, name, value)
    return drawer.draw(seeds, batch_size, class_labels)
