"""Random streams, one per image, so that image i is the same in any batch, shard or order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sida.data.transfer import to_device


class SeedStreams:
    """CPU generators, one per seed; each draw stacks one draw of every generator (fact 24 of tests/golden/README.md).

    Args:
        seeds: Image seeds, taken modulo 2^32 as in the official tools.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
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


def latents_for_seeds(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Unit normal latents float32 ``(len(seeds), *shape)``; row i depends on ``seeds[i]`` alone.

    Source: NVlabs/edm:generate.py (``StackedRandomGenerator``); CPU generators on every device.
    """
    return SeedStreams(seeds).randn(shape)
