"""A network with its optimizer: steps on all its parameters, guarded against NaNs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from sida.machine import compiled
from sida.training.flat import Adam, FlatParameters, buffers, load_buffers
from sida.training.ranks import ALONE, Ranks

#: Replacement of infinite gradients in EDM, SiD, SiDA and GDD.
INFINITY_REPLACEMENT = 1e5


class GuardReport(NamedTuple):
    """Result of the guard.

    Attributes:
        norm: Euclidean norm after replacement, before clipping; 0-dim.
        replaced: Number of entries that were NaN or infinite; 0-dim integer tensor or int.
    """

    norm: torch.Tensor
    replaced: torch.Tensor | int


def guard_gradient(
    gradient: torch.Tensor, clip_value: float | None = None, infinity: float = INFINITY_REPLACEMENT
) -> GuardReport:
    """In place: NaN → 0, ±∞ → ±``infinity``, then clipped by value; the official order.

    Args:
        gradient: All gradients of a network in one vector.
        clip_value: Largest magnitude of an entry; None does not clip.
        infinity: Replacement of infinity.
    """
    norm = gradient.norm()
    replaced: torch.Tensor | int = 0
    # One reduction decides whether anything is wrong. Reading its result would make a GPU wait, so that gradients on a
    # GPU are always repaired.
    if gradient.is_cuda or not torch.isfinite(norm):
        replaced = gradient.numel() - torch.isfinite(gradient).sum()
        gradient.nan_to_num_(nan=0.0, posinf=infinity, neginf=-infinity)
        norm = gradient.norm()
    if clip_value is not None:
        gradient.clamp_(-clip_value, clip_value)
    return GuardReport(norm, replaced)


#: Added to a norm that a clip divides by, as torch.nn.utils.clip_grad_norm_ does.
_CLIP_EPS = 1e-6


class OptimizedNetwork:
    """Network, optimizer and guard.

    Args:
        net: Network on its final device.
        lr: Adam's learning rate.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        clip_value: Value clip of the gradients after the guard; None is off.
        compile: Run the network through ``torch.compile``.
        fused: Take the step, and lay out the parameters, as fused kernels want (:mod:`sida.kernels`).
        infinity: Replacement of infinity in gradients.
        always_training: Keep the network in training mode while it is frozen, too.
        optimizer: Class of the optimizer.
        weight_decay: Each step first multiplies the parameters by 1 − rate · this (AdamW).
        clip_norm: Largest norm of the gradient, after the guard; None is off.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        lr: float,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-8,
        clip_value: float | None = None,
        compile: bool = False,
        fused: bool = False,
        infinity: float = INFINITY_REPLACEMENT,
        always_training: bool = False,
        optimizer: type[Adam] = Adam,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.net, self.lr, self.clip_value = net, lr, clip_value
        #: Processes that train together. Each divides its losses by the images of its own device, and all bring equally
        #: many, so the average of their gradients is that of the mean over the whole batch (as in torch's DDP).
        self.ranks: Ranks = ALONE
        self.fused, self.infinity, self.always_training = fused, infinity, always_training
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self._gathered: torch.Tensor | None = None
        self._calls = {mode: compiled(net) if compile else net for mode in (True, False)}
        #: The network in its present mode; compiled if asked for.
        self.call: torch.nn.Module = net
        self.flat = FlatParameters(net, channels_last=fused)
        self.adam = optimizer(self.flat.vector, betas, eps)
        self._modules = list(net.modules())

    def train(self) -> torch.nn.Module:
        """The network in training mode, with gradients of its parameters; returns what to call."""
        return self._mode(True)

    def eval(self) -> torch.nn.Module:
        """The network with its parameters frozen, in evaluation mode unless it is always in training mode.

        Gradients still flow through to the input.
        """
        return self._mode(False)

    def _mode(self, training: bool) -> torch.nn.Module:
        for module in self._modules:
            # Module.train() costs 20 times this, several times per iteration.
            object.__setattr__(module, "training", training or self.always_training)
        self.flat.requires_grad_(training)
        self.call = self._calls[training]
        return self.call

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Adds a micro-batch's gradient ``(P,)``, which the parameters do not hold; its memory may be reused then."""
        if self._gathered is None:
            self._gathered = gradient.clone()
        else:
            self._gathered += gradient

    def step(self, lr_factor: float = 1.0) -> GuardReport:
        """Takes the gathered gradients: reduce, guard, clip, Adam; forgets them."""
        gradient, self._gathered = self._gathered, None
        if gradient is None or any(p.grad is not None for p in self.flat.parameters):
            own = self.flat.gradient()
            gradient = own if gradient is None else gradient + own
            self.flat.zero_grad()
        self.ranks.average(gradient)
        return self._take(gradient, self.lr * lr_factor)

    def _take(self, gradient: torch.Tensor, lr: float) -> GuardReport:
        if self.weight_decay:
            self.adam.vector.mul_(1 - lr * self.weight_decay)
        if self.fused and self.clip_norm is None and type(self.adam) is Adam:
            return self._take_fused(gradient, lr)
        report = guard_gradient(gradient, self.clip_value, self.infinity)
        if self.clip_norm is not None:
            gradient.mul_((self.clip_norm / (report.norm + _CLIP_EPS)).clamp(max=1))
        self.adam.step(gradient, lr)
        return report

    def _take_fused(self, gradient: torch.Tensor, lr: float) -> GuardReport:
        """Guard, clip and Adam in two passes over the vectors; equal to them up to rounding."""
        from sida.kernels import adam as kernels

        adam, clip = self.adam, self.clip_value
        seen = kernels.gradient_norm(gradient, self.infinity)
        adam.steps += 1
        state = (adam.vector, gradient, adam.mean, adam.square)
        kernels.adam_step(*state, lr, adam.betas, adam.eps, int(adam.steps), self.infinity, clip)
        return GuardReport(seen[0].sqrt(), seen[1].long())

    def weight_rms(self) -> float | None:
        """Root mean square of the entries of all weights (parameters of two or more dimensions).

        Biases and gains are left out. None: there are no such parameters, or it is not finite.
        """
        weights = [p.detach() for p in self.flat.parameters if p.ndim >= 2]
        square = sum(float(torch.linalg.vector_norm(weight)) ** 2 for weight in weights)
        rms = math.sqrt(square / max(sum(weight.numel() for weight in weights), 1))
        return rms if weights and math.isfinite(rms) else None

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a resumed run needs, as named tensors (references where possible)."""
        moments = {f"adam/{name}": self.flat.portable(value) for name, value in self.adam.moments().items()}
        parameters = {"parameters": self.flat.portable(self.flat.vector), **buffers(self.net)}
        return {**parameters, "adam/steps": self.adam.steps, **moments}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a :meth:`state`.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A tensor has the wrong shape.
        """
        self.flat.vector.copy_(self.flat.arranged(state["parameters"]))
        load_buffers(self.net, state)
        self.adam.steps.copy_(state["adam/steps"])
        for name, moment in self.adam.moments().items():
            moment.copy_(self.flat.arranged(state[f"adam/{name}"]))
