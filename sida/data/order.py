"""In which order images are visited: our counter-based order, and the official ones for comparison."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sida.randomness import derive_seed


class InfiniteSampler:
    """Endless visits, a fresh permutation per epoch; position k's index depends on (seed, k) alone.

    Nothing has to be saved to resume: ask for the positions that come next. Several devices share one order by
    asking for different positions.

    Args:
        dataset_size: Number of items, at least 1.
        seed: Seed of all permutations.
        purpose: Separates independent streams of one seed, e.g. ``"psi"`` and ``"generator"``.
    """

    def __init__(self, dataset_size: int, seed: int, purpose: str = "order") -> None:
        if dataset_size < 1:
            raise ValueError("dataset_size must be at least 1")
        self.dataset_size, self.seed, self.purpose = dataset_size, seed, purpose
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def indices(self, start: int, count: int) -> np.ndarray:
        """Indices int64 ``(count,)`` at positions ``start … start + count - 1`` of the endless order."""
        result = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, offset = divmod(start + done, self.dataset_size)
            take = min(count - done, self.dataset_size - offset)
            result[done : done + take] = self._order(epoch)[offset : offset + take]
            done += take
        return result

    def _order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            state = np.random.RandomState(np.random.MT19937(derive_seed(self.seed, self.purpose, epoch)))
            self._permutation, self._epoch = state.permutation(self.dataset_size), epoch
        return self._permutation


def edm_order(
    dataset_size: int, seed: int, rank: int = 0, num_replicas: int = 1, window_size: float = 0.5
) -> Iterator[int]:
    """EDM's and SiD's order: after each visit the item is swapped with one of the last half data set's visits.

    There are no epochs, so position k needs all earlier draws; training here uses :class:`InfiniteSampler`.

    Source: NVlabs/edm:torch_utils/misc.py (``InfiniteSampler``), fact 28 of tests/golden/README.md.
    """
    order = np.arange(dataset_size)
    state = np.random.RandomState(seed)
    state.shuffle(order)
    window = int(np.rint(dataset_size * window_size))
    position = 0
    while True:
        here = position % dataset_size
        if position % num_replicas == rank:
            yield int(order[here])
        if window >= 2:
            there = (here - state.randint(window)) % dataset_size
            order[here], order[there] = order[there], order[here]
        position += 1


def edm2_order(dataset_size: int, seed: int, start: int = 0, rank: int = 0, num_replicas: int = 1) -> Iterator[int]:
    """EDM2's order: a permutation per epoch, seeded by Python's hash of the pair (seed, epoch).

    Source: NVlabs/edm2:torch_utils/misc.py (``InfiniteSampler``), fact 28 of tests/golden/README.md.
    """
    position = start + rank
    order = np.empty(0, dtype=np.int64)
    current = -1
    while True:
        epoch, offset = divmod(position, dataset_size)
        if epoch != current:
            order = np.arange(dataset_size)
            np.random.RandomState(hash((seed, epoch)) % (1 << 31)).shuffle(order)
            current = epoch
        yield int(order[offset])
        position += num_replicas
