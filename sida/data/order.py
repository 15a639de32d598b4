"""Orders of the images in a training: the suite's counter-based order, and the official orders of EDM and EDM2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from sida.machine import derive_seed


class Order(Protocol):
    """An endless order of the items of a data set."""

    def indices(self, start: int, count: int) -> np.ndarray:
        """Indices int64 ``(count,)`` at positions ``start … start + count - 1``."""


class _Epochs:
    """A new permutation for each epoch.

    Args:
        dataset_size: Number of items, at least 1.
        source: Function that gives the random generator of an epoch's permutation.
    """

    def __init__(self, dataset_size: int, source: Callable[[int], np.random.RandomState]) -> None:
        self.dataset_size, self.source = dataset_size, source
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def indices(self, start: int, count: int) -> np.ndarray:
        """See :class:`Order`."""
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
            self._permutation, self._epoch = self.source(epoch).permutation(self.dataset_size), epoch
        return self._permutation


class InfiniteSampler(_Epochs):
    """Endless order with a new permutation for each epoch; the index at position k depends on (seed, k) only.

    Resuming needs no saved state, only the next position. Several devices share one order by reading different
    positions.

    Args:
        dataset_size: Number of items, at least 1.
        seed: Seed of all permutations.
        purpose: Name of one of several independent streams of a seed, e.g. ``"psi"`` and ``"generator"``.
    """

    def __init__(self, dataset_size: int, seed: int, purpose: str = "order") -> None:
        if dataset_size < 1:
            raise ValueError("dataset_size must be at least 1")
        self.seed, self.purpose = seed, purpose
        derived = lambda epoch: np.random.RandomState(np.random.MT19937(derive_seed(seed, purpose, epoch)))
        super().__init__(dataset_size, derived)


class EDM2Order(_Epochs):
    """EDM2's order: permutations seeded by Python's hash of the pair (seed, epoch).

    Args:
        dataset_size: Number of items, at least 1.
        seed: Seed of all permutations.

    Source: NVlabs/edm2:torch_utils/misc.py (``InfiniteSampler``), fact 28 of tests/golden/README.md.
    """

    def __init__(self, dataset_size: int, seed: int) -> None:
        super().__init__(dataset_size, lambda epoch: np.random.RandomState(hash((seed, epoch)) % (1 << 31)))


class EDMOrder:
    """EDM's and SiD's order: after each visit the item is swapped with one visited within the last half data set.

    There are no epochs: a position needs all earlier draws, which a resumed run repeats (about a minute for a hundred
    million images).

    Args:
        dataset_size: Number of items, at least 1.
        seed: Seed of the order.

    Source: NVlabs/edm:torch_utils/misc.py (``InfiniteSampler``), fact 28 of tests/golden/README.md.
    """

    def __init__(self, dataset_size: int, seed: int) -> None:
        self.dataset_size, self.seed = dataset_size, seed
        self._window = int(np.rint(dataset_size * 0.5))
        self._restart()

    def _restart(self) -> None:
        order = np.arange(self.dataset_size)
        self._state = np.random.RandomState(self.seed % (1 << 32))
        self._state.shuffle(order)
        self._order, self._position = order.tolist(), 0
        # Kept visits from position `_first` on, which may be requested again; start of the previous request.
        self._past: list[int] = []
        self._first, self._asked = 0, -1

    def indices(self, start: int, count: int) -> np.ndarray:
        """Indices int64 ``(count,)`` at positions ``start … start + count - 1`` of the endless order."""
        if start < self._first:
            self._restart()
        # Prefetching requests a batch twice; visits before both requests are dropped.
        needed = start if self._asked < 0 else min(self._asked, start)
        self._asked = start
        while self._position < start + count:
            self._past += self._visit(min(start + count - self._position, 1 << 16))
            forgotten = min(needed - self._first, len(self._past))
            del self._past[:forgotten]
            self._first += forgotten
        begin = start - self._first
        return np.array(self._past[begin : begin + count], dtype=np.int64)

    def _visit(self, count: int) -> list[int]:
        """The next indices."""
        order, size, current = self._order, self.dataset_size, self._position % self.dataset_size
        # One call for many numbers gives the same numbers as many calls.
        draws = self._state.randint(self._window, size=count).tolist() if self._window >= 2 else [0] * count
        visited = []
        for draw in draws:
            item = order[current]
            visited.append(item)
            order[current], order[current - draw] = order[current - draw], item
            current = current + 1 if current + 1 < size else 0
        self._position += count
        return visited


#: Functions that make an order from the data set's size, the seed and the purpose, by name.
ORDERS: dict[str, Callable[[int, int, str], Order]] = {
    "shuffled": lambda size, seed, purpose: InfiniteSampler(size, seed, purpose),
    "edm": lambda size, seed, purpose: EDMOrder(size, seed),
    "edm2": lambda size, seed, purpose: EDM2Order(size, seed),
}
