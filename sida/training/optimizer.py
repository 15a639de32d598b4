"""A network with its optimizer and average: all parameters as one vector, Adam on it, steps guarded against NaNs."""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from sida.config.kernels import Kernels, OptimizerKernels, use_kernels
from sida.training.processes import ALONE, Ranks

NamedTensors = dict[str, torch.Tensor]


class Resumable(Protocol):
    """Part of a run whose state is kept for resuming: a network, an optimizer state or an average."""

    def state(self) -> NamedTensors:
        """Named tensors (references, not copies)."""

    def load(self, state: NamedTensors) -> None:
        """Restores a state."""


class FlatParameters:
    """Moves a network's parameters into one contiguous float32 vector; the parameters become views of the vector.

    Guarding, clipping, Adam, averaging, saving and reducing across devices then use one tensor. The network's results
    do not change. Parameters that do not require a gradient at this time are never trained.

    Args:
        net: Network on its final device; do not move or deep-copy it while the views are in use.
        channels_last: Store the kernels of convolutions in channels-last order.

    Attributes:
        vector: float32 ``(P,)``, in the order of ``net.parameters()``.
        parameters: The network's parameters, views of ``vector``.
        learning: Those that are trained.
    """

    def __init__(self, net: torch.nn.Module, channels_last: bool = False) -> None:
        self.net, self.parameters = net, list(net.parameters())
        self.channels_last = channels_last
        self.learning = [p for p in self.parameters if p.requires_grad]
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

    def arranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """Converts a vector from the plain order to this object's order; a copy if they differ."""
        return self._joined(self._parts(tensor, False)) if self.channels_last else tensor

    def state(self) -> NamedTensors:
        """Returns ``parameters`` and persistent ``buffers/<name>``: references if possible."""
        return {"parameters": self.portable(self.vector), **self._buffers()}

    def load(self, state: NamedTensors) -> None:
        """Restores a :meth:`state`.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A tensor has the wrong shape.
        """
        self.vector.copy_(self.arranged(state["parameters"]))
        for name, value in self._buffers().items():
            value.copy_(state[name])

    def _buffers(self) -> NamedTensors:
        parameters = dict(self.net.named_parameters())
        return {f"buffers/{name}": value for name, value in self.net.state_dict().items() if name not in parameters}

    def gradient(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Gradients as one vector like ``vector``; zeros for parameters without a gradient.

        Args:
            out: Tensor for the result; None allocates one.
        """
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return self._joined(parts, out)

    def gradient_of(self, loss: torch.Tensor) -> torch.Tensor:
        """Gradient of a loss as a vector like ``vector``; its graph and the gradients of the parameters stay.

        A loss that only reports, such as FD-Loss's distance of each judge, has none: zeros.
        """
        known = loss.requires_grad
        parts = torch.autograd.grad(loss, self.learning, retain_graph=True, allow_unused=True) if known else ()
        gradients = dict(zip(self.learning, parts))
        return self._joined(
            [torch.zeros_like(p) if gradients.get(p) is None else gradients[p] for p in self.parameters]
        )

    def zero_grad(self) -> None:
        """Removes all gradients."""
        for p in self.parameters:
            p.grad = None


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
        assert gradient.shape == self.vector.shape
        (beta1, beta2), (count, mean) = self.betas, self._advance(gradient)
        divisor = self.square.sqrt().div_(math.sqrt(1 - beta2**count)).add_(self.eps)
        self.vector.addcdiv_(mean, divisor, value=-lr / (1 - beta1**count))

    def _advance(self, gradient: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Moves v and m; returns the number of steps, and m."""
        self.steps += 1
        self.square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        return int(self.steps), gradient if self.mean is None else self.mean.lerp_(gradient, 1 - self.betas[0])

    def moments(self) -> NamedTensors:
        """Running means by name, ``(P,)`` each."""
        return {"square": self.square} if self.mean is None else {"square": self.square, "mean": self.mean}


class RAdam(Adam):
    """Adam that takes momentum steps at first, and smaller steps while v̂ rests on few gradients.

    Source: RAdam (arXiv:1908.03265), algorithm 2.
    """

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, lr: float) -> None:
        """See :meth:`Adam.step`."""
        (beta1, beta2), (count, mean) = self.betas, self._advance(gradient)
        rate, max_length, power = lr / (1 - beta1**count), 2 / (1 - beta2) - 1, beta2**count
        # Length of the simple moving average that corresponds to the exponential average.
        length = max_length - 2 * count * power / (1 - power)
        if length <= 5:
            self.vector.add_(mean, alpha=-rate)
            return
        ratio = (length - 4) * (length - 2) * max_length / ((max_length - 4) * (max_length - 2) * length)
        self.vector.addcdiv_(mean, self.square.sqrt().add_(self.eps), value=-rate * math.sqrt(ratio * (1 - power)))


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
    gradient: torch.Tensor, clip_value: float | None, infinity: float = INFINITY_REPLACEMENT
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
        clip_value: Value clip of the gradients after the guard; 0 is off.
        kernels: Kernels of the network, which is changed in place, and of the step; None: torch's.
        infinity: Replacement of infinity in gradients.
        always_training: Keep the network in training mode while it is frozen, too.
        optimizer: Class of the optimizer.
        weight_decay: Each step first multiplies the parameters by 1 − rate · this (AdamW).
        clip_norm: Largest norm of the gradient, after the guard; 0 is off.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        clip_value: float = 0.0,
        kernels: Kernels | None = None,
        infinity: float = INFINITY_REPLACEMENT,
        always_training: bool = False,
        optimizer: type[Adam] = Adam,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
    ) -> None:
        self.net, self.lr = net, lr
        #: Processes that train together. Each divides its losses by the images of its own device, and all bring equally
        #: many, so the average of their gradients is that of the mean over the whole batch (as in torch's DDP).
        self.ranks: Ranks = ALONE
        self.kernels, self.infinity, self.always_training = kernels, infinity, always_training
        self.weight_decay, self.clip_value, self.clip_norm = weight_decay, clip_value or None, clip_norm or None
        self._gathered: torch.Tensor | None = None
        if kernels is not None:
            use_kernels(kernels.network, net)
        self.flat = FlatParameters(net, channels_last=kernels is not None and kernels.network.channels_last)
        self.adam = optimizer(self.flat.vector, betas, eps)
        self._modules = list(net.modules())

    def set_training(self, training: bool) -> None:
        """Sets training mode with gradients of the parameters, or freezes these in evaluation mode.

        A network that is always in training mode is only frozen. Gradients still flow through to its input.
        """
        for module in self._modules:
            # Module.train() costs 20 times this, several times per iteration.
            object.__setattr__(module, "training", training or self.always_training)
        for p in self.flat.learning:
            p.requires_grad_(training)

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Adds a micro-batch's gradient ``(P,)``, which the parameters do not hold; its memory may be reused then."""
        if self._gathered is None:
            self._gathered = gradient.clone()
        else:
            self._gathered += gradient

    def step(self, lr_factor: float) -> GuardReport:
        """Takes the gathered gradients at a factor of the learning rate: reduce, guard, clip, Adam; forgets them."""
        gradient, self._gathered = self._gathered, None
        if gradient is None or any(p.grad is not None for p in self.flat.parameters):
            parameter_gradient = self.flat.gradient()
            gradient = parameter_gradient if gradient is None else gradient + parameter_gradient
            self.flat.zero_grad()
        self.ranks.average(gradient)
        lr = self.lr * lr_factor
        if self.weight_decay:
            self.adam.vector.mul_(1 - lr * self.weight_decay)
        if self.kernels is not None and self.clip_norm is None and type(self.adam) is Adam:
            return self._step_by(self.kernels.optimizer, gradient, lr)
        report = guard_gradient(gradient, self.clip_value, self.infinity)
        if self.clip_norm is not None:
            gradient.mul_((self.clip_norm / (report.norm + _CLIP_EPS)).clamp(max=1))
        self.adam.step(gradient, lr)
        return report

    def _step_by(self, kernels: OptimizerKernels, gradient: torch.Tensor, lr: float) -> GuardReport:
        """Guard, clip and Adam in two passes over the vectors; equal to them up to rounding."""
        adam, clip = self.adam, self.clip_value
        square_and_count = kernels.gradient_norm(gradient, self.infinity)
        adam.steps += 1
        state = (adam.vector, gradient, adam.mean, adam.square)
        kernels.adam_step(*state, lr, adam.betas, adam.eps, int(adam.steps), self.infinity, clip)
        return GuardReport(square_and_count[0].sqrt(), square_and_count[1].long())

    def weight_rms(self) -> float | None:
        """Root mean square of the entries of all weights (parameters of two or more dimensions).

        Biases and gains are left out. None: there are no such parameters, or it is not finite.
        """
        weights = [p.detach() for p in self.flat.parameters if p.ndim >= 2]
        square = sum(float(torch.linalg.vector_norm(weight)) ** 2 for weight in weights)
        rms = math.sqrt(square / max(sum(weight.numel() for weight in weights), 1))
        return rms if weights and math.isfinite(rms) else None

    def state(self) -> NamedTensors:
        """Everything that a resumed run needs, as named tensors (references where possible)."""
        moments = {f"adam/{name}": self.flat.portable(value) for name, value in self.adam.moments().items()}
        return {**self.flat.state(), "adam/steps": self.adam.steps, **moments}

    def load(self, state: NamedTensors) -> None:
        """Restores a :meth:`state`; errors are those of :meth:`FlatParameters.load`."""
        self.flat.load(state)
        self.adam.steps.copy_(state["adam/steps"])
        for name, moment in self.adam.moments().items():
            moment.copy_(self.flat.arranged(state[f"adam/{name}"]))


class Average(FlatParameters):
    """Exponential moving average of a network's parameters; buffers are copied once and never change (fact 12).

    Args:
        network: Network to average; the average starts as a copy of its parameters.

    Attributes:
        net: Averaged network.
    """

    def __init__(self, network: OptimizedNetwork) -> None:
        super().__init__(copy.deepcopy(network.net).eval().requires_grad_(False), network.flat.channels_last)
        self._source = network.flat.vector

    def update(self, beta: float) -> None:
        """``average ← β average + (1 − β) parameters``."""
        self.vector.lerp_(self._source, 1 - beta)


def ema_half_life(nimg: int, half_life: float, rampup_ratio: float | None) -> float:
    """Half-life in images after ``nimg`` images: at most the share ``rampup_ratio`` of them (None: no ramp-up)."""
    return half_life if rampup_ratio is None else min(half_life, nimg * rampup_ratio)


def ema_beta(nimg: int, batch_size: int, half_life: float, rampup_ratio: float | None) -> float:
    """Weight of the old average in ``ema ← β ema + (1 − β) parameters``, in [0, 1].

    Args:
        nimg: Images seen before the iteration; the first iteration with a ramp-up gives 0, a plain copy.
        batch_size: Images of the iteration.
        half_life: In images, above 0.
        rampup_ratio: See :func:`ema_half_life`.

    Source: StyleGAN3 (arXiv:2106.12423); NVlabs/edm:training/training_loop.py.
    """
    return 0.5 ** (batch_size / max(ema_half_life(nimg, half_life, rampup_ratio), 1e-8))
