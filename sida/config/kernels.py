"""Kernels of networks and optimizers: torch's, and those that plugins add."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any, Protocol, cast

from sida.config.registries import Registry
from sida.config.settings import OneOf
from sida.late import Tensor, torch

#: Functions ``require(where)`` by the name of the kernels; each returns :class:`Kernels`, or raises
#: :class:`sida.errors.UserError` with the place where they cannot be used here.
KERNELS: Registry[Any] = Registry("kernels", "", {}, "kernels")
#: A value of the setting ``kernels``.
KernelName = Annotated[str, OneOf(lambda: ["torch", *KERNELS], missing=KERNELS.missing)]


class Kernels(Protocol):
    """Kernels that take the place of torch's in U-Nets and in a step of Adam; results differ by rounding."""

    def use_fused_kernels(self, net: torch.nn.Module) -> Any:
        """Switches a network to these kernels; parameters and state dict do not change."""

    def fused_kernels(self, net: torch.nn.Module) -> AbstractContextManager[None]:
        """Context with these kernels, which restores the former ones at its end."""

    def convert_frozen_weights(self, net: torch.nn.Module) -> None:
        """Stores the weights of a network that is not trained as the kernels read them."""

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


def require_kernels(name: str, where: str = "kernels") -> Kernels | None:
    """Kernels by their name; None for torch's.

    Args:
        name: Value of the setting ``kernels``.
        where: Place named in errors.

    Raises:
        UserError: Their plugin or a package is missing or too old.
    """
    return None if name == "torch" else cast(Kernels, KERNELS.find(name, where)(where))
