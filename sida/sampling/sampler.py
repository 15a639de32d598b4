"""Draws one batch with a sampler: from latents and labels to values of about unit scale."""

from __future__ import annotations

from typing import Any

import torch

from sida.config.samplers import Sampler
from sida.networks import family_of
from sida.sampling.heun import heun
from sida.sampling.one_step import multi_step
from sida.sampling.seeds import SeedStreams

_HEUN_KEYS = ("sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise", "guidance")


def draw_batch(
    sampler: Sampler,
    net: torch.nn.Module,
    latents: torch.Tensor,
    class_labels: torch.Tensor | None,
    streams: SeedStreams,
    gnet: torch.nn.Module | None = None,
    called: tuple[Any, Any] | None = None,
) -> torch.Tensor:
    """Returns images or latents of about unit scale, ``(N, C, H, W)``.

    Args:
        sampler: ``one_step`` or ``heun``.
        net: Preconditioned network.
        latents: Unit normal ``(N, C, H, W)`` on the network's device.
        class_labels: One-hot rows or None.
        streams: Sources of fresh noise, one per image.
        gnet: Guiding network.
        called: Substitutes for the two networks, see :meth:`sida.sampling.replay.Evaluations.of`.
    """
    network, guide = called or (net, gnet)
    if sampler.kind == "one_step":
        return multi_step(network, latents, class_labels, sampler.steps, streams.randn_like, sampler.init_sigma)
    family = family_of(net)
    return heun(
        network,
        latents,
        class_labels,
        sampler.steps,
        dtype=getattr(torch, sampler.dtype or family.sampler_dtype),
        noise=streams.randn_like,
        noise_every_step=family.noise_every_step,
        gnet=guide,
        **{key: getattr(sampler, key) for key in _HEUN_KEYS},
    )
