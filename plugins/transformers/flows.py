"""Samplers of flows on equal steps of time: Euler's and Heun's method, SiT's Euler–Maruyama.

A flow's time t is 1 for noise and 0 for the image, whichever way the network counts it, and x_t = (1 − t) y + t n. With
the velocity v = n − y the ordinary equation is dx = v dt. The stochastic one with diffusion t has the same marginals:

    x(t − h) = x − h [(2 − t) v + x] + √(2 t h) noise

Source: willisma/SiT:transport/transport.py, integrators.py (diffusion form ``sigma``), whose time is 1 − t.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from sida.errors import UserError
from sida.sampling.drawing import Drawing
from sida.sampling.guidance import Guide


def check_flow(net: Any, guide: Any) -> None:
    """Checks that networks, or None for no guide, have velocities.

    Raises:
        UserError: One has none.
    """
    for network in (net, guide):
        if network is not None and not getattr(getattr(network, "net", network), "is_flow", False):
            fault = f"'flow' needs networks of velocities, not {type(network).__name__}"
            raise UserError("sampler.kind", fault, "use heun")


def flow(
    net: Any,
    latents: torch.Tensor,
    class_labels: torch.Tensor | None,
    solver_steps: int = 250,
    method: str = "heun",
    last_step: float = 0.04,
    dtype: torch.dtype = torch.float64,
    noise: Callable[[torch.Tensor], torch.Tensor] | None = None,
    guide: Guide | None = None,
) -> torch.Tensor:
    """Returns images for unit normal latents, ``(N, C, H, W)`` in ``dtype``.

    Args:
        net: Network with :meth:`sida.networks.Precond.velocity`.
        latents: Unit normal ``(N, C, H, W)``: the state at t = 1.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        solver_steps: Number of steps n; of ``euler_maruyama`` with the last one.
        method: ``euler``, ``heun`` (two evaluations a step) or ``euler_maruyama``.
        last_step: Length of the last step of ``euler_maruyama``, which has no noise.
        dtype: Type of the state; networks compute on float32 input.
        noise: ``noise(x)`` returns unit normal draws like ``x``; only ``euler_maruyama`` calls it.
        guide: Guidance, see :class:`sida.sampling.guidance.Guide`.
    """

    def velocity(x: torch.Tensor, time: float) -> torch.Tensor:
        x32, level = x.to(torch.float32), time / (1 - time) if time < 1 else math.inf
        output = lambda network, labels: network.velocity(x32, time, labels).to(dtype)
        own: torch.Tensor = output(net, class_labels)
        return guide(own, level, output) if guide else own

    def drift(x: torch.Tensor, time: float) -> torch.Tensor:
        return (time - 2) * velocity(x, time) - x

    x = latents.to(dtype)
    if method == "euler_maruyama":
        assert noise is not None
        times = [1 - (1 - last_step) * step / (solver_steps - 1) for step in range(solver_steps)]
        for time, following in itertools.pairwise(times):
            fresh, step = noise(x), time - following
            x = x + step * drift(x, time) + math.sqrt(2 * time * step) * fresh
        return x + last_step * drift(x, last_step)
    for time, following in itertools.pairwise([1 - step / solver_steps for step in range(solver_steps)] + [0.0]):
        step, first = following - time, velocity(x, time)
        if method == "heun":
            first = (first + velocity(x + step * first, following)) / 2
        x = x + step * first
    return x


#: Computation of the kind of sampler.
DRAWING = Drawing(
    lambda call: call.of_steps(flow),
    lambda sampler, net, guide: check_flow(net, guide),
)
