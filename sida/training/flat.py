"""All parameters of a network as one vector, and Adam on that vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch


class Resumable(Protocol):
    """Part of a run whose state is kept for resuming: a network, an optimizer state or an average."""

    def state(self) -> dict[str, torch.Tensor]:
        """Named tensors (references, not copies)."""

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a state."""


def joint_state(parts: Mapping[str, Resumable]) -> dict[str, torch.Tensor]:
    """Joins the states of several parts, with the keys ``part/name``."""
    return {f"{part}/{name}": value for part, owner in parts.items() for name, value in owner.state().items()}


def load_joint_state(parts: Mapping[str, Resumable], state: Mapping[str, torch.Tensor]) -> None:
    """Restores a :func:`joint_state`."""
    for part, owner in parts.items():
        prefix = f"{part}/"
        owner.load({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})


def buffers(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Persistent buffers as ``buffers/<name>``."""
    parameters = dict(net.named_parameters())
    return {f"buffers/{name}": value for name, value in net.state_dict().items() if name not in parameters}


def load_buffers(net: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Restores :func:`buffers`."""
    for name, value in buffers(net).items():
        value.copy_(state[name])


class FlatParameters:
    """Moves a network's parameters into one contiguous float32 vector; the parameters become views of the vector.

    Guarding, clipping, Adam, averaging, saving and reducing across devices then act on one tensor. The network's
    results do not change. Parameters that do not require a gradient at this time are never trained.

    Args:
        net: Network on its final device; do not move or deep-copy it while the views are in use.
        channels_last: Store the kernels of convolutions in channels-last order.

    Attributes:
        vector: float32 ``(P,)``, in the order of ``net.parameters()``.
        parameters: The network's parameters, views of ``vector``.
    """

    def __init__(self, net: torch.nn.Module, channels_last: bool = False) -> None:
        self.parameters = list(net.parameters())
        if not self.parameters:
            raise ValueError("a network without parameters cannot learn")
        self.channels_last = channels_last
        self._learning = [p for p in self.parameters if p.requires_grad]
        self.vector = self._joined([p.detach().float() for p in self.parameters])
        for p, part in zip(self.parameters, self._parts(self.vector, self.channels_last)):
            p.data = part

    def _joined(self, parts: Sequence[torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
        """Joins tensors of the parameters' shapes to one vector in this object's memory order."""
        orders = [part.permute(0, 2, 3, 1) if self.channels_last and part.ndim == 4 else part for part in parts]
        return torch.cat([part.reshape(-1) for part in orders], out=out)

    def _parts(self, vector: torch.Tensor, channels_last: bool) -> list[torch.Tensor]:
        """Views of a vector with the parameters' shapes."""
        parts = []
        for p, part in zip(self.parameters, vector.split([p.numel() for p in self.parameters])):
            if channels_last and p.ndim == 4:
                out, width, height, length = p.shape
                parts.append(part.view(out, height, length, width).permute(0, 3, 1, 2))
            else:
                parts.append(part.view(p.shape))
        return parts

    def portable(self, vector: torch.Tensor) -> torch.Tensor:
        """Converts a vector from this object's order to the plain order of stored states; a copy if they differ."""
        if not self.channels_last:
            return vector
        return torch.cat([part.reshape(-1) for part in self._parts(vector, True)])

    def arranged(self, plain: torch.Tensor) -> torch.Tensor:
        """Converts a vector from the plain order to this object's order; a copy if they differ."""
        return self._joined(self._parts(plain, False)) if self.channels_last else plain

    def gradient(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Gradients as one vector like ``vector``; zeros for parameters without a gradient.

        Args:
            out: Tensor for the result; None allocates one.
        """
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return self._joined(parts, out)

    def zero_grad(self) -> None:
        """Removes all gradients."""
        for p in self.parameters:
            p.grad = None

    def requires_grad_(self, flag: bool) -> None:
        """Turns gradients of all trained parameters on or off."""
        for p in self._learning:
            p.requires_grad_(flag)


class Adam:
    """``v ← β₂ v + (1 − β₂) g²;  m ← β₁ m + (1 − β₁) g;  x ← x − lr · m̂ / (√v̂ + ε)`` with bias-corrected m̂, v̂.

    Args:
        vector: Parameters, changed in place; float32 ``(P,)``.
        betas: β₁ and β₂ in [0, 1).
        eps: ε.

    Source: Adam (arXiv:1412.6980), algorithm 1.
    """

    def __init__(self, vector: torch.Tensor, betas: tuple[float, float], eps: float) -> None:
        self.vector, self.betas, self.eps = vector, betas, eps
        self.steps = torch.zeros((), dtype=torch.int64)
        self.square = torch.zeros_like(vector)
        self.mean = torch.zeros_like(vector) if betas[0] else None

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, lr: float) -> None:
        """One step against ``gradient`` ``(P,)``."""
        beta1, beta2 = self.betas
        self.steps += 1
        count = int(self.steps)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if self.mean is not None:
            gradient = self.mean.lerp_(gradient, 1 - beta1)
        divisor = self.square.sqrt().div_(math.sqrt(1 - beta2**count)).add_(self.eps)
        self.vector.addcdiv_(gradient, divisor, value=-lr / (1 - beta1**count))

    def moments(self) -> dict[str, torch.Tensor]:
        """Running means by name, ``(P,)`` each."""
        return {"square": self.square} if self.mean is None else {"square": self.square, "mean": self.mean}


class RAdam(Adam):
    """Adam that takes momentum steps at first, and smaller steps while v̂ rests on few gradients.

    Source: RAdam (arXiv:1908.03265), algorithm 2.
    """

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, lr: float) -> None:
        """See :meth:`Adam.step`."""
        beta1, beta2 = self.betas
        self.steps += 1
        count = int(self.steps)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean = gradient if self.mean is None else self.mean.lerp_(gradient, 1 - beta1)
        rate, most, decayed = lr / (1 - beta1**count), 2 / (1 - beta2) - 1, beta2**count
        # Length of the simple moving average that corresponds to the exponential average.
        length = most - 2 * count * decayed / (1 - decayed)
        if length <= 5:
            self.vector.add_(mean, alpha=-rate)
            return
        ratio = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
        self.vector.addcdiv_(mean, self.square.sqrt().add_(self.eps), value=-rate * math.sqrt(ratio * (1 - decayed)))
