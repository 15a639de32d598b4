"""A network that learns: its parameters as one vector, Adam, and guarded steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from sida.training.adam import Adam
from sida.training.compilation import compiled
from sida.training.flat import FlatParameters
from sida.training.guards import GuardReport, guard_gradient

#: Averages a gradient vector over devices, in place. A trainer divides its losses by the images of its own device, and
#: all devices bring equally many, so the average is the gradient of the mean over the whole batch (as in torch's DDP).
Reduce = Callable[[torch.Tensor], None]


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
    ) -> None:
        self.net, self.lr, self.clip_value, self.reduce = net, lr, clip_value, reduce
        self._calls = {mode: compiled(net) if compile else net for mode in (True, False)}
        #: What to call: the network in the mode it was put in last.
        self.call: torch.nn.Module = net
        self.flat = FlatParameters(net)
        self.adam = Adam(self.flat.vector, betas, eps)
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

    def step(self, lr_factor: float = 1.0) -> GuardReport:
        """Takes the gathered gradients: reduce, guard, clip, Adam; forgets them."""
        gradient = self.flat.gradient()
        self.flat.zero_grad()
        if self.reduce is not None:
            self.reduce(gradient)
        report = guard_gradient(gradient, self.clip_value)
        self.adam.step(gradient, self.lr * lr_factor)
        return report

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a resumed run needs, as named tensors (references, not copies)."""
        state = {f"adam/{name}": value for name, value in self.adam.state().items()}
        return {"parameters": self.flat.vector, **buffers(self.net), **state}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A tensor has the wrong shape.
        """
        self.flat.vector.copy_(state["parameters"])
        load_buffers(self.net, state)
        self.adam.load({name.removeprefix("adam/"): value for name, value in state.items()})


class Average:
    """Exponential moving average of a learner's parameters; buffers are copied once and stay (fact 12).

    Args:
        learner: Whose parameters are averaged; the average starts as a copy of them.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.net = copy.deepcopy(learner.net).eval().requires_grad_(False)
        self.flat = FlatParameters(self.net)

    def update(self, beta: float) -> None:
        """``average ← β average + (1 − β) parameters``."""
        self.flat.vector.lerp_(self._learner.flat.vector, 1 - beta)

    def state(self) -> dict[str, torch.Tensor]:
        """The average as named tensors (references, not copies)."""
        return {"parameters": self.flat.vector, **buffers(self.net)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back."""
        self.flat.vector.copy_(state["parameters"])
        load_buffers(self.net, state)


def buffers(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Persistent buffers as ``buffers/<name>``."""
    parameters = dict(net.named_parameters())
    return {f"buffers/{name}": value for name, value in net.state_dict().items() if name not in parameters}


def load_buffers(net: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts :func:`buffers` back."""
    for name, value in buffers(net).items():
        value.copy_(state[name])
