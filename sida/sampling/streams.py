"""Random streams of images, and the rules that draw classes from them.

Each image has streams of its own, so that it is the same in any batch, shard or order.
"""

from collections.abc import Callable, Sequence

import torch

from sida.config.labels import LabelCounts
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.machine import to_device

#: Class of images from networks without classes.
NO_CLASS = -1


class SeedStreams:
    """CPU generators, one per seed; each draw stacks one draw of every generator (fact 24 of tests/golden/README.md).

    Args:
        seeds: Image seeds, taken modulo 2^32 as in the official tools.

    Source: NVlabs/edm:generate.py (``StackedRandomGenerator``); CPU generators on every device.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = torch.tensor([int(seed) for seed in seeds], dtype=torch.int64)
        self._generators = [torch.Generator(device="cpu").manual_seed(int(seed) % (1 << 32)) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Normal draws ``(N, *shape)`` on the CPU, one item per seed."""
        result = torch.empty(len(self), *shape, dtype=dtype)
        # Draws in place, row by row, which avoids a list of small tensors and a copy.
        for row, generator in zip(result.unbind(), self._generators):
            row.normal_(generator=generator)
        return result

    def randn_like(self, x: torch.Tensor) -> torch.Tensor:
        """Normal draws with the shape, dtype and device of ``x`` (one item per seed)."""
        return to_device(self.randn(x.shape[1:], dtype=x.dtype), x.device)

    def randint(self, high: int) -> torch.Tensor:
        """Integers in ``[0, high)``, int64 ``(N,)``."""
        result = torch.empty(len(self), dtype=torch.int64)
        for row, generator in zip(result.unbind(), self._generators):
            row.random_(high, generator=generator)
        return result


#: Function from streams and the position of the first seed to classes int64 ``(N,)``.
ClassRule = Callable[[SeedStreams, int], torch.Tensor]


def class_rule_of(
    label_dim: int, rule: str | int | Sequence[int] | LabelCounts, dataset: Dataset | None, count: int
) -> ClassRule:
    """Returns the rule that draws classes; arguments and errors as for :meth:`sida.sampling.Drawer.draw`.

    Args:
        label_dim: Number of the network's classes.
        rule: ``class_labels`` of :meth:`sida.sampling.Drawer.draw`.
        dataset: Source of ``empirical`` labels.
        count: Number of seeds.
    """
    if isinstance(rule, str) and rule not in ("uniform", "empirical", "balanced"):
        raise UserError("class labels", f"must be uniform, balanced, empirical or a class, got '{rule}'")
    if label_dim == 0:
        if not isinstance(rule, (str, LabelCounts)):
            raise UserError("class labels", "the network has no classes", "leave the class out")
        return lambda streams, start: torch.full((len(streams),), NO_CLASS)
    if rule == "uniform":
        return lambda streams, start: streams.randint(label_dim)
    if rule == "balanced":

        def in_turn(streams: SeedStreams, start: int) -> torch.Tensor:
            streams.randint(label_dim)  # Unused, as for given classes below.
            return streams.seeds % label_dim

        return in_turn
    if isinstance(rule, LabelCounts):
        if len(rule.counts) != label_dim:
            fault = f"'{rule.name}' counts {len(rule.counts)} classes, the network has {label_dim}"
            raise UserError("class labels", fault, "give those of the data set that the network was trained on")
        sorted_pool = torch.repeat_interleave(torch.arange(label_dim), torch.tensor(rule.counts))
        return lambda streams, start: sorted_pool[streams.randint(len(sorted_pool))]
    if rule == "empirical":
        if dataset is None or dataset.label_dim == 0:
            fault = "'empirical' draws from a data set with classes"
            raise UserError("class labels", fault, "give one, or use 'uniform'")
        if dataset.label_dim != label_dim:
            fault = f"data set {dataset.name} has {dataset.label_dim} classes, the network {label_dim}"
            raise UserError("class labels", fault, "give the data set that the network was trained on")
        pool = dataset.class_indices
        return lambda streams, start: pool[streams.randint(len(pool))]
    fixed = torch.full((count,), rule) if isinstance(rule, int) else torch.as_tensor(rule, dtype=torch.int64)
    if len(fixed) != count:
        raise UserError("class labels", f"{len(fixed)} classes for {count} seeds", "give one class per seed")
    if count and not (int(fixed.min()) >= 0 and int(fixed.max()) < label_dim):
        fault = f"must be between 0 and {label_dim - 1}, got {int(fixed.min())}..{int(fixed.max())}"
        raise UserError("class labels", fault)

    def given(streams: SeedStreams, start: int) -> torch.Tensor:
        # Draws a class without using it, as the original tools do, so that the fresh noise is the same for any class.
        streams.randint(label_dim)
        rows = fixed[start : start + len(streams)]
        return torch.cat([rows, rows[-1:].expand(len(streams) - len(rows))])

    return given
