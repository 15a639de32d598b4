"""How images are drawn from a generator, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from sida.config import from_mapping
from sida.errors import UserError
from sida.sampling.heun import heun, heun_evaluations
from sida.sampling.one_step import multi_step
from sida.sampling.seeds import SeedStreams

_HEUN_KEYS = ("sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise", "guidance")


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampler with its settings; keys as in :func:`sida.sampling.heun`.

    Attributes:
        kind: ``one_step`` (with ``num_steps`` > 1: few steps), ``heun``, or ``data`` (resampled real images).
        init_sigma: σ_init of ``one_step``.
        num_steps: Steps; 1 for ``one_step`` and 18 for ``heun`` when left out.
        guidance: Strength of guidance (``heun``); other than 1 it needs a guiding network.
        dtype: ``float64`` or ``float32``; null takes float32 for EDM2 networks, float64 for others (as the originals).
    """

    kind: Literal["one_step", "heun", "data"] = "one_step"
    init_sigma: float = 2.5
    num_steps: int | None = None
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0
    guidance: float = 1.0
    dtype: Literal["float32", "float64"] | None = None

    def __post_init__(self) -> None:
        least = 2 if self.kind == "heun" else 1
        if self.num_steps is not None and self.num_steps < least:
            raise ValueError(f"num_steps: must be at least {least}, got {self.num_steps}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min: must lie between 0 and sigma_max = {self.sigma_max}, got {self.sigma_min}")
        if self.init_sigma <= 0:
            raise ValueError(f"init_sigma: must be positive, got {self.init_sigma}")
        if self.S_churn < 0:
            raise ValueError(f"S_churn: must be 0 or more, got {self.S_churn}")

    @property
    def steps(self) -> int:
        """Number of steps, with the default filled in."""
        if self.num_steps is not None:
            return self.num_steps
        return 18 if self.kind == "heun" else 1

    @property
    def nfe(self) -> int:
        """Evaluations of the network per image; those of a guiding network are not counted (as the papers do)."""
        return {"heun": heun_evaluations(self.steps), "one_step": self.steps, "data": 0}[self.kind]

    def __call__(
        self,
        net: torch.nn.Module,
        latents: torch.Tensor,
        class_labels: torch.Tensor | None,
        streams: SeedStreams,
        gnet: torch.nn.Module | None = None,
    ) -> torch.Tensor:
        """Images or latents of the network's data, about unit scale, ``(N, C, H, W)``.

        Args:
            net: Preconditioned network.
            latents: Unit normal ``(N, C, H, W)`` on the network's device.
            class_labels: One-hot rows or None.
            streams: Source of fresh noise, one per image.
            gnet: Guiding network.
        """
        if self.kind == "one_step":
            return multi_step(net, latents, class_labels, self.steps, streams.randn_like, self.init_sigma)
        edm2 = _is_edm2(net)
        return heun(
            net,
            latents,
            class_labels,
            self.steps,
            dtype=getattr(torch, self.dtype or ("float32" if edm2 else "float64")),
            noise=streams.randn_like,
            noise_every_step=not edm2,
            gnet=gnet,
            **{key: getattr(self, key) for key in _HEUN_KEYS},
        )


def read_sampler(value: Sampler | Mapping[str, Any] | str, where: str = "sampler") -> Sampler:
    """Reads a sampler from a mapping of its fields, or from text such as ``heun:18,S_churn=40``.

    The number after the colon is ``num_steps``; settings follow as ``key=number``.

    Raises:
        UserError: Unknown kind or key, or a value out of range.
    """
    if isinstance(value, Sampler):
        return value
    if isinstance(value, Mapping):
        return from_mapping(Sampler, value, where)
    kind, *parts = value.replace(":", ",", 1).split(",")
    mapping: dict[str, Any] = {"kind": kind.replace("-", "_")}
    for part in filter(None, parts):
        key, equals, number = part.partition("=")
        if not equals:
            key, number = "num_steps", key
        try:
            mapping[key] = int(number) if number.lstrip("+-").isdigit() else float(number)
        except ValueError:
            mapping[key] = number
    if mapping["kind"] not in ("one_step", "heun", "data"):
        raise UserError(
            f"{where}: unknown sampler '{value}'; use one_step, heun:STEPS or data, e.g. heun:18,S_churn=40"
        )
    return from_mapping(Sampler, mapping, where)


def _is_edm2(net: torch.nn.Module) -> bool:
    config = getattr(net, "init_config", None)
    name = config.get("class") if isinstance(config, Mapping) else type(net).__name__
    return str(name).startswith("EDM2")
