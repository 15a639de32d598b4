"""Kernels of networks and optimizers: torch's, and those that plugins add."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, cast

from sida.config.registries import Registry
from sida.config.settings import OneOf
from sida.late import Tensor, torch

#: Functions ``require(where)`` by the name of the kernels; each returns :class:`Kernels`, or raises
#: :class:`sida.errors.UserError` with the place where they cannot be used here.
KERNELS: Registry[Any] = Registry("kernels", "kernels")
#: A value of the setting ``kernels``.
KernelName = Annotated[str, OneOf(lambda: ["torch", *KERNELS], missing=KERNELS.missing)]


class Replacement(NamedTuple):
    """A method of one module that other kernels compute.

    Attributes:
        module: The module.
        name: Name of the method.
        function: Takes its place; its first argument is the module.
    """

    module: torch.nn.Module
    name: str
    function: Callable[..., Any]


class NetworkKernels(Protocol):
    """Kernels of networks; results differ from torch's by rounding.

    Attributes:
        channels_last: Whether they read the weights of convolutions in channels-last order.
    """

    channels_last: bool

    def replacements(self, net: torch.nn.Module) -> Sequence[Replacement]:
        """Methods of a network that these kernels compute; none for a network of which they know no part."""

    def convert_frozen_weights(self, net: torch.nn.Module) -> None:
        """Stores the weights of a network that is not trained as the kernels read them; results do not change."""


class OptimizerKernels(Protocol):
    """Kernels of the guard and of a step of Adam, for the parameters of any network; results differ by rounding."""

    def gradient_norm(self, gradient: Tensor, infinity: float) -> Tensor:
        """Squared norm of the guarded gradient, and the number of its entries that are not finite, float32 ``(2,)``."""

    def adam_step(
        self,
        vector: Tensor,
        gradient: Tensor,
        mean: Tensor | None,
        square: Tensor,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        count: int,
        infinity: float,
        clip: float | None,
    ) -> None:
        """A step of Adam in place, against the guarded and clipped gradient."""


class Kernels(NamedTuple):
    """Kernels that a value of the setting ``kernels`` stands for.

    Attributes:
        network: Those of networks.
        optimizer: Those of the optimizer, whatever the network.
        news: Returns a line for people about what happened since the last call, such as compiling; None: nothing.
    """

    network: NetworkKernels
    optimizer: OptimizerKernels
    news: Callable[[], str | None] = lambda: None


def require_kernels(name: str, where: str = "kernels") -> Kernels | None:
    """Kernels by their name; None for torch's.

    Args:
        name: Value of the setting ``kernels``.
        where: Place named in errors.

    Raises:
        UserError: Their plugin or a package is missing or too old.
    """
    return None if name == "torch" else cast(Kernels, KERNELS.find(name, where)(where))


def use_kernels(kernels: NetworkKernels, net: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    """Switches a network to kernels; parameters and state dict do not change, and copies of the network have them too.

    Args:
        kernels: Kernels of networks.
        net: Network, changed in place.

    Returns:
        Modules and the names of their methods that were replaced.
    """
    replaced = []
    for module, name, function in kernels.replacements(net):
        if name not in vars(module):
            setattr(module, name, functools.partial(function, module))
            replaced.append((module, name))
    return replaced


@contextlib.contextmanager
def kernels_in(kernels: NetworkKernels, net: torch.nn.Module) -> Iterator[None]:
    """Context of :func:`use_kernels`; restores the former kernels at its end."""
    replaced = use_kernels(kernels, net)
    try:
        yield
    finally:
        for module, name in replaced:
            delattr(module, name)
