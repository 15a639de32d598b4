"""Orders of a data set's images in a training: the suite's, which depends only on counters, and EDM2's official one."""

import numpy as np

from sida.machine import derive_seed


class InfiniteSampler:
    """Endless order with a new permutation of a data set's items for each epoch, a function of (seed, purpose, epoch).

    To resume, the next position suffices. Several devices share one order by reading different positions.

    Args:
        dataset_size: Number of items, at least 1.
        seed: Seed of all permutations.
        purpose: Name of one of several independent streams of a seed, e.g. ``"psi"`` and ``"generator"``.
    """

    def __init__(self, dataset_size: int, seed: int, purpose: str = "order") -> None:
        self.dataset_size, self.seed, self.purpose = dataset_size, seed, purpose
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def generator(self, epoch: int) -> np.random.RandomState:
        """Random generator of an epoch's permutation."""
        return np.random.RandomState(np.random.MT19937(derive_seed(self.seed, self.purpose, epoch)))

    def indices(self, start: int, count: int) -> np.ndarray:
        """Indices int64 ``(count,)`` at positions ``start … start + count - 1``."""
        result = np.empty(count, dtype=np.int64)
        position = 0
        while position < count:
            epoch, offset = divmod(start + position, self.dataset_size)
            take = min(count - position, self.dataset_size - offset)
            if epoch != self._epoch:
                self._permutation, self._epoch = self.generator(epoch).permutation(self.dataset_size), epoch
            result[position : position + take] = self._permutation[offset : offset + take]
            position += take
        return result


class EDM2Order(InfiniteSampler):
    """EDM2's order: permutations seeded by Python's hash of the pair (seed, epoch), equal for all purposes.

    Source: NVlabs/edm2:torch_utils/misc.py (``InfiniteSampler``), fact 28 of tests/golden/README.md.
    """

    def generator(self, epoch: int) -> np.random.RandomState:
        """Random generator of an epoch's permutation."""
        # Python randomises only the hashes of texts; a tuple of integers has the same one in each process.
        return np.random.RandomState(hash((self.seed, epoch)) % (1 << 31))


#: Orders by name.
ORDERS: dict[str, type[InfiniteSampler]] = {"shuffled": InfiniteSampler, "edm2": EDM2Order}
