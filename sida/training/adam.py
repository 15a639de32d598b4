"""Adam on one vector.

The same arithmetic as ``torch.optim.Adam``, written out because a run has exactly one vector per network: nothing is
looped over, no first moment is kept when β₁ = 0 (the papers' setting), and a short run does not wait seconds for the
compiler stack that torch's optimizers import on their first use.
"""

from __future__ import annotations

import math

import torch


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

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step count as named tensors (references, not copies)."""
        state = {"steps": self.steps, "square": self.square}
        return state if self.mean is None else {**state, "mean": self.mean}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
