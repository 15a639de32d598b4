"""Source of random tensors: a generator, or recorded draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch


class DrawSource:
    """Returns raw draws in call order.

    Args:
        device: Device of the draws, if neither a generator nor recorded draws are given.
        generator: Source of the draws, on its device.
        recorded: Recorded draws, one per call, whose shapes are checked.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        recorded: Iterable[torch.Tensor] | None = None,
    ) -> None:
        self._generator = generator
        self._device = generator.device if generator is not None else torch.device(device)
        self._recorded: Iterator[torch.Tensor] | None = None if recorded is None else iter(recorded)

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1), float32."""
        if self._recorded is not None:
            return self._next(shape)
        return torch.rand(shape, generator=self._generator, device=self._device)

    def randn(self, *shape: int) -> torch.Tensor:
        """Unit normal, float32."""
        if self._recorded is not None:
            return self._next(shape)
        return torch.randn(shape, generator=self._generator, device=self._device)

    def randint(self, high: int, *shape: int) -> torch.Tensor:
        """Integers in ``[0, high)``, int64."""
        if self._recorded is not None:
            return self._next(shape)
        return torch.randint(high, shape, generator=self._generator, device=self._device)

    def _next(self, shape: Sequence[int]) -> torch.Tensor:
        assert self._recorded is not None
        value = next(self._recorded, None)
        if value is None:
            raise ValueError(f"the recorded draws have run out; a draw of shape {tuple(shape)} was asked for")
        value = torch.as_tensor(value)
        if tuple(value.shape) != tuple(shape):
            raise ValueError(f"recorded draw has shape {tuple(value.shape)}, expected {tuple(shape)}")
        return value
