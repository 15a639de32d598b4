"""A network that learns: all its parameters as one vector, Adam on that vector, and steps that survive NaNs."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch

from sida.training.ranks import Ranks
from sida.training.shards import Shards
from sida.training.state import say

#: Averages a gradient vector over devices, in place. A trainer divides its losses by the images of its own device, and
#: all devices bring equally many, so the average is the gradient of the mean over the whole batch (as in torch's DDP).
Reduce = Callable[[torch.Tensor], None]
#: What infinite gradients become (official value).
INFINITY_REPLACEMENT = 1e5


class GuardReport(NamedTuple):
    """What the guard saw.

    Attributes:
        norm: Euclidean norm after replacement, before clipping; 0-dim.
        replaced: Number of entries that were NaN or infinite; 0-dim integer tensor or int.
    """

    norm: torch.Tensor
    replaced: torch.Tensor | int


def guard_gradient(gradient: torch.Tensor, clip_value: float | None = None) -> GuardReport:
    """In place: NaN → 0, ±∞ → ±1e5, then clipped by value; the official order.

    Args:
        gradient: All gradients of a network in one vector.
        clip_value: Largest magnitude of an entry; None does not clip.
    """
    norm = gradient.norm()
    replaced: torch.Tensor | int = 0
    # One reduction decides whether anything is wrong; asking would make a GPU wait, so there it is always repaired.
    if gradient.is_cuda or not torch.isfinite(norm):
        replaced = gradient.numel() - torch.isfinite(gradient).sum()
        gradient.nan_to_num_(nan=0.0, posinf=INFINITY_REPLACEMENT, neginf=-INFINITY_REPLACEMENT)
        norm = gradient.norm()
    if clip_value is not None:
        gradient.clamp_(-clip_value, clip_value)
    return GuardReport(norm, replaced)


class FlatParameters:
    """Moves a network's parameters into one contiguous float32 vector; the parameters become views of it.

    Guarding, clipping, Adam, averaging, saving and (later) reducing across devices then act on one tensor. The
    network itself does not notice. Parameters that do not require a gradient now never will: they stay as they are.

    Args:
        net: Network on its final device; not to be moved or deep-copied while the views are in use.
        channels_last: Let the kernels of convolutions lie in the order that channels-last convolutions want.

    Attributes:
        vector: float32 ``(P,)``, in the order of ``net.parameters()``.
        padded: ``vector`` with the zeros of :meth:`pad` behind it.
        parameters: The network's parameters, views of ``vector``.
    """

    def __init__(self, net: torch.nn.Module, channels_last: bool = False) -> None:
        self.parameters = list(net.parameters())
        if not self.parameters:
            raise ValueError("a network without parameters cannot learn")
        self.channels_last = channels_last
        self._learning = [p for p in self.parameters if p.requires_grad]
        self._hold(self._joined([p.detach().float() for p in self.parameters]))

    def _hold(self, padded: torch.Tensor) -> None:
        self.padded, self.vector = padded, padded[: sum(p.numel() for p in self.parameters)]
        for p, part in zip(self.parameters, self._parts(self.vector, self.channels_last)):
            p.data = part

    def _joined(self, parts: Sequence[torch.Tensor], zeros: int = 0) -> torch.Tensor:
        """Tensors of the parameters' shapes as one vector in this object's order of memory, and zeros behind it."""
        orders = [part.permute(0, 2, 3, 1) if self.channels_last and part.ndim == 4 else part for part in parts]
        return torch.cat([*(part.reshape(-1) for part in orders), *([parts[0].new_zeros(zeros)] if zeros else [])])

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

    def pad(self, count: int) -> None:
        """Puts zeros behind the vector, which is another one from now on."""
        self._hold(torch.cat([self.vector, self.vector.new_zeros(count)]))

    def portable(self, vector: torch.Tensor) -> torch.Tensor:
        """A vector of this object's order in the plain one, in which states are kept: a copy where they differ."""
        if not self.channels_last:
            return vector
        return torch.cat([part.reshape(-1) for part in self._parts(vector, True)])

    def arranged(self, plain: torch.Tensor) -> torch.Tensor:
        """A vector of the plain order in this object's: a copy where they differ."""
        return self._joined(self._parts(plain, False)) if self.channels_last else plain

    def gradient(self) -> torch.Tensor:
        """The gradients as one fresh vector like ``padded``; parameters that were not reached give zeros."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return self._joined(parts, len(self.padded) - len(self.vector))

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for p in self.parameters:
            p.grad = None

    def requires_grad_(self, flag: bool) -> None:
        """Turns gradients on or off, of all parameters that learn."""
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
        """The running means by name, ``(P,)`` each."""
        return {"square": self.square} if self.mean is None else {"square": self.square, "mean": self.mean}


class Learner:
    """Network, optimizer and guard.

    Args:
        net: Network on its final device.
        lr: Adam's learning rate.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        clip_value: Value clip of the gradients after the guard; None is off.
        reduce: Called with the gradient vector before the guard, for data-parallel training; None is one device.
        compile: Run the network through ``torch.compile``.
        fused: Take the step, and lay out the parameters, as fused kernels want (:mod:`sida.kernels`).
    """

    def __init__(
        self,
        net: torch.nn.Module,
        lr: float,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-8,
        clip_value: float | None = None,
        reduce: Reduce | None = None,
        compile: bool = False,
        fused: bool = False,
    ) -> None:
        self.net, self.lr, self.clip_value, self.reduce = net, lr, clip_value, reduce
        self.fused = fused
        self._gathered: torch.Tensor | None = None
        self._calls = {mode: compiled(net) if compile else net for mode in (True, False)}
        #: What to call: the network in the mode it was put in last.
        self.call: torch.nn.Module = net
        self.flat = FlatParameters(net, channels_last=fused)
        self.adam = Adam(self.flat.vector, betas, eps)
        self.shards: Shards | None = None
        self._modules = list(net.modules())

    def train(self) -> torch.nn.Module:
        """The network in training mode, with gradients of its parameters; returns what to call."""
        return self._mode(True)

    def eval(self) -> torch.nn.Module:
        """The network in evaluation mode with its parameters frozen; gradients still flow through to the input."""
        return self._mode(False)

    def _mode(self, training: bool) -> torch.nn.Module:
        for module in self._modules:
            # Module.train() costs 20 times this, several times per iteration.
            object.__setattr__(module, "training", training)
        self.flat.requires_grad_(training)
        self.call = self._calls[training]
        return self.call

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Adds a round's gradient ``(P,)`` that is not with the parameters; its memory may be written again after."""
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
        if self.shards is not None:
            gradient = self.shards.averaged(gradient)
        elif self.reduce is not None:
            self.reduce(gradient)
        report = self._take(gradient, self.lr * lr_factor)
        if self.shards is not None:
            self.shards.spread(self.flat.padded)
            report = GuardReport(*self.shards.total(*report))
        return report

    def _take(self, gradient: torch.Tensor, lr: float) -> GuardReport:
        if self.fused:
            from sida.training.fused_step import fused_step

            return fused_step(self.adam, gradient, lr, self.clip_value)
        report = guard_gradient(gradient, self.clip_value)
        self.adam.step(gradient, lr)
        return report

    def weight_rms(self) -> float | None:
        """Root mean square of the entries of all weights (parameters of two or more dimensions).

        Biases and gains are left out. None: there are no such parameters, or it is not finite.
        """
        weights = [p.detach() for p in self.flat.parameters if p.ndim >= 2]
        square = sum(float(torch.linalg.vector_norm(weight)) ** 2 for weight in weights)
        rms = math.sqrt(square / max(sum(weight.numel() for weight in weights), 1))
        return rms if weights and math.isfinite(rms) else None

    def shard(self, shards: Shards) -> None:
        """From now on this rank steps on its piece of the parameters; to be called before the first step."""
        self.shards = shards
        self.flat.pad(shards.padding)
        self.adam = Adam(shards.own(self.flat.padded), self.adam.betas, self.adam.eps)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a resumed run needs, as named tensors (references where nothing is changed or put together)."""
        moments = self.adam.moments()
        if self.shards is not None:
            moments = {name: self.shards.whole(value) for name, value in moments.items()}
        return {
            "parameters": self.flat.portable(self.flat.vector),
            **buffers(self.net),
            "adam/steps": self.adam.steps,
            **{f"adam/{name}": self.flat.portable(value) for name, value in moments.items()},
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A tensor has the wrong shape.
        """
        self.flat.vector.copy_(self.flat.arranged(state["parameters"]))
        load_buffers(self.net, state)
        self.adam.steps.copy_(state["adam/steps"])
        for name, moment in self.adam.moments().items():
            vector = self.flat.arranged(state[f"adam/{name}"])
            moment.copy_(vector if self.shards is None else self.shards.piece_of(vector))


def join(learner: Learner, ranks: Ranks, shard: bool = False) -> None:
    """Lets a learner take its steps on the gradients of all processes that train together.

    Args:
        learner: Before its first step, equal on all of them.
        ranks: The processes.
        shard: Cut its optimizer and gradient into pieces.
    """
    if shard and ranks.world_size > 1:
        learner.shard(Shards(ranks, len(learner.flat.vector)))
    elif ranks.world_size > 1:
        learner.reduce = ranks.average


class Resumable(Protocol):
    """What a run keeps to go on: a learner, an average."""

    def state(self) -> dict[str, torch.Tensor]:
        """Named tensors (references, not copies)."""

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a state back."""


def joint_state(parts: Mapping[str, Resumable]) -> dict[str, torch.Tensor]:
    """States of several parts in one, as ``part/name``."""
    return {f"{part}/{name}": value for part, owner in parts.items() for name, value in owner.state().items()}


def load_joint_state(parts: Mapping[str, Resumable], state: Mapping[str, torch.Tensor]) -> None:
    """Puts a :func:`joint_state` back."""
    for part, owner in parts.items():
        prefix = f"{part}/"
        owner.load({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})


def buffers(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Persistent buffers as ``buffers/<name>``."""
    parameters = dict(net.named_parameters())
    return {f"buffers/{name}": value for name, value in net.state_dict().items() if name not in parameters}


def load_buffers(net: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts :func:`buffers` back."""
    for name, value in buffers(net).items():
        value.copy_(state[name])


def compiled(net: torch.nn.Module) -> torch.nn.Module:
    """The network through ``torch.compile``, for calls in one mode and with one set of shapes and flags.

    Each call of this function gives code of its own (a network that is trained and also used frozen wants two),
    and the hundreds of checks per call that nothing about parameters and modules has changed are left out: here
    nothing does. Changed shapes or flags of the inputs still compile again.

    A torch that cannot keep the code of two calls apart compiles with all checks; where nothing can be compiled (no
    C++ compiler, say) the network itself comes back. One line says so.
    """
    device = next(net.parameters()).device.type
    fault = _fault(device)
    if fault is not None:
        _say_once(f"compile: torch {torch.__version__} cannot compile here ({fault}); going on without it")
        return net
    # Small networks lose by converted memory layouts and by Python between the kernels (benchmarks/).
    options: dict[str, Any] = {"layout_optimization": False, "cpp_wrapper": True} if device == "cpu" else {}
    skip_checks = getattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe", None)
    isolate: dict[str, Any] = {}
    # Without checks, code that is not kept apart would be taken for the other mode of the network.
    if skip_checks is not None and "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        isolate["isolate_recompiles"] = True
        options["guard_filter_fn"] = skip_checks
    else:
        _say_once(f"compile: torch {torch.__version__} compiles with checks at every call; a newer one is faster")
    return cast(torch.nn.Module, torch.compile(net, dynamic=False, options=options, **isolate))


@functools.cache
def _fault(device: str) -> str | None:
    """Why ``torch.compile`` does not work on a device; None when a trial does."""
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # whatever it is, training goes on without
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None


@functools.cache
def _say_once(line: str) -> None:
    say(line)
