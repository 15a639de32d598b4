"""Reading of batches, with prefetch in worker processes and without changing their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from sida.data.dataset import Dataset


def read_batches(
    dataset: Dataset, indices: Iterable[np.ndarray], workers: int = 0, ahead: int = 2, pin_memory: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields ``(images, labels)`` of :class:`Dataset` for each batch of indices, in order.

    Args:
        dataset: The data set; must be picklable for spawned processes (all data sets of this package are).
        indices: Batches of indices; may be endless, since only ``workers * ahead`` batches are read in advance.
        workers: Reading processes; 0 reads in this process.
        ahead: Batches that each worker prepares in advance.
        pin_memory: Whether to put batches into page-locked memory, for asynchronous copies to a GPU.

    Raises:
        UserError: The data set raises it, e.g. for a damaged image, in this process or in a worker.
    """
    if workers == 0:
        for batch in indices:
            pair = (dataset.images(batch), dataset.labels(batch))
            yield (pair[0].pin_memory(), pair[1].pin_memory()) if pin_memory else pair
        return
    loader: torch.utils.data.DataLoader[tuple[torch.Tensor, torch.Tensor]] = torch.utils.data.DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=_Lists(indices),
        num_workers=workers,
        prefetch_factor=ahead,
        pin_memory=pin_memory,
        collate_fn=_unchanged,
    )
    yield from loader


class _Lists(torch.utils.data.Sampler[list[int]]):
    """Batches of indices as lists, as the data loader requires."""

    def __init__(self, indices: Iterable[np.ndarray]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self._indices)


def _unchanged(pair: Any) -> Any:
    return pair
