"""DDPM's random sampler on some steps of a discrete diffusion, with the variance that the network learned.

The chosen steps k = 1 … n keep ᾱ_k of the diffusion, with ᾱ_0 = 1, so that β_k = 1 − ᾱ_k / ᾱ_{k−1}. With the noise ε
and the image y = (x_k − √(1 − ᾱ_k) ε) / √ᾱ_k that the network predicts, and unit normal noise z,

    x_{k−1} = [√ᾱ_{k−1} β_k y + √(1 − β_k) (1 − ᾱ_{k−1}) x_k] / (1 − ᾱ_k) + s_k z
    ln s_k² = (1 + v)/2 · ln β_k + (1 − v)/2 · ln[β_k (1 − ᾱ_{k−1}) / (1 − ᾱ_k)]

where v, about −1 to 1, is the second half of the network's output; x_0 = y of the last step, which adds no noise.

Source: DDPM (arXiv:2006.11239), eq. 6 and 7; Improved DDPM (arXiv:2102.09672), eq. 15 and section 4;
facebookresearch/DiT:diffusion/gaussian_diffusion.py, respace.py, models.py (``forward_with_cfg``).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from sida.errors import UserError
from sida.sampling.drawing import Drawing
from sida.sampling.guidance import Guide


def spaced_steps(solver_steps: int, diffusion_steps: int) -> list[int]:
    """Numbers of about equally spaced steps of a diffusion, ascending, with the first and the last.

    Distances are summed, since the rounding of the sum decides a half in the source.
    """
    distances = itertools.repeat((diffusion_steps - 1) / (solver_steps - 1), solver_steps - 1)
    return [round(position) for position in itertools.accumulate(distances, initial=0.0)]


def check_ddpm(net: Any, guide: Any, solver_steps: int) -> None:
    """Checks that DDPM's sampler can draw from a network.

    Args:
        net: Network.
        guide: Guiding network, or None.
        solver_steps: Number of steps.

    Raises:
        UserError: The network predicts no noise with a variance, has fewer steps, or the guide has other steps.
    """
    if not (hasattr(net, "at_step") and net.learn_sigma):
        fault = f"'ddpm' needs a network of noise and its variance (DiTPrecond, learn_sigma), not {type(net).__name__}"
        raise UserError("sampler.kind", fault, "use heun")
    levels = net.steps.log_sigmas
    if solver_steps > len(levels):
        raise UserError("sampler.num_steps", f"{solver_steps} of the network's {len(levels)} steps", "take fewer")
    if guide is None:
        return
    steps: Any = getattr(getattr(guide, "net", guide), "steps", None)
    if not (hasattr(guide, "at_step") and torch.equal(steps.log_sigmas.to(levels), levels)):
        raise UserError("guiding network", "has other steps of noise than the network", "use heun, or another guide")


def ddpm(
    net: Any,
    latents: torch.Tensor,
    class_labels: torch.Tensor | None,
    solver_steps: int = 250,
    dtype: torch.dtype = torch.float64,
    noise: Callable[[torch.Tensor], torch.Tensor] | None = None,
    guide: Guide | None = None,
) -> torch.Tensor:
    """Returns images for unit normal latents, ``(N, C, H, W)`` in ``dtype``.

    Args:
        net: Network with ``learn_sigma`` and :meth:`sida.plugins.transformers.networks.DiTPrecond.at_step`.
        latents: Unit normal ``(N, C, H, W)``: the state before the first step.
        class_labels: One-hot rows ``(N, label_dim)`` or None.
        solver_steps: Number of steps n, at least 2.
        dtype: Type of the state; networks compute on float32 input.
        noise: ``noise(x)`` returns unit normal draws like ``x``; called in all steps but the last.
        guide: Guidance of ε, see :class:`sida.sampling.guidance.Guide`; the guide's variance is not used.
    """
    assert noise is not None
    signals, channels = net.steps.alphas_cumprod.tolist(), latents.shape[1]

    def predicted(x: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x32, signal = x.to(torch.float32), signals[step]
        eps, share = net.at_step(x32, step, class_labels).to(dtype).split(channels, 1)
        if guide:
            weaker = lambda network, labels: network.at_step(x32, step, labels)[:, :channels].to(dtype)
            eps = guide(eps, math.sqrt(1 / signal - 1), weaker)
        return (x - math.sqrt(1 - signal) * eps) / math.sqrt(signal), share

    x, falling = latents.to(dtype), spaced_steps(solver_steps, len(signals))[::-1]
    for step, following in itertools.pairwise(falling):
        image, share = predicted(x, step)
        beta, remaining = 1 - signals[step] / signals[following], (1 - signals[following]) / (1 - signals[step])
        weight = math.sqrt(signals[following]) * beta / (1 - signals[step])
        mean = weight * image + math.sqrt(1 - beta) * remaining * x
        # The share (v above) takes ln s² from the posterior's variance (v = −1) to ln β (v = 1).
        log_variance = math.log(beta) + (1 - share) / 2 * math.log(remaining)
        x = mean + (log_variance / 2).exp() * noise(x)
    return predicted(x, falling[-1])[0]


#: Computation of the kind of sampler.
DRAWING = Drawing(
    lambda call: call.of_steps(ddpm),
    lambda sampler, net, guide: check_ddpm(net, guide, sampler.steps),
)
