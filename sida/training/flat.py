"""All parameters of a network as one vector, so that a step is a handful of kernels instead of hundreds."""

from __future__ import annotations

import torch


class FlatParameters:
    """Moves a network's parameters into one contiguous float32 vector; the parameters become views of it.

    Guarding, clipping, Adam, averaging, saving and (later) reducing across devices then act on one tensor. The
    network itself does not notice. Parameters that do not require a gradient now never will: they stay as they are.

    Args:
        net: Network on its final device; not to be moved or deep-copied while the views are in use.

    Attributes:
        vector: float32 ``(P,)``, in the order of ``net.parameters()``.
        parameters: The network's parameters, views of ``vector``.
    """

    def __init__(self, net: torch.nn.Module) -> None:
        self.parameters = list(net.parameters())
        if not self.parameters:
            raise ValueError("a network without parameters cannot learn")
        self._learning = [p for p in self.parameters if p.requires_grad]
        self.vector = torch.cat([p.detach().reshape(-1).float() for p in self.parameters])
        position = 0
        for p in self.parameters:
            p.data = self.vector[position : position + p.numel()].view(p.shape)
            position += p.numel()

    def gradient(self) -> torch.Tensor:
        """The gradients as one fresh vector ``(P,)``; parameters that were not reached give zeros."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([part.reshape(-1) for part in parts])

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for p in self.parameters:
            p.grad = None

    def requires_grad_(self, flag: bool) -> None:
        """Turns gradients on or off, of all parameters that learn."""
        for p in self._learning:
            p.requires_grad_(flag)
