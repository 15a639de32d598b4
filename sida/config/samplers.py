"""Kinds of samplers and their settings, and parsing of texts such as ``heun:18``.

:mod:`sida.sampling` draws the images. This module does not import torch, for presets and specs.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sida.config.settings import Count, Finite, NotNegative, OneOf, Positive, Range, Settings, from_mapping
from sida.errors import SettingError, UserError
from sida.files.text_files import number_in

#: Settings that each kind of sampler reads; :func:`sida.sampling.samplers.draw_batch` draws with those of a network.
SAMPLER_KINDS = {
    "one_step": {"init_sigma", "num_steps", "kernels"},
    "heun": {
        "num_steps", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise", "guidance",
        "dtype", "kernels",
    },
    "data": set[str](),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(Settings):
    """A sampler with its settings; keys as in :func:`sida.sampling.heun`.

    Attributes:
        kind: ``one_step`` (with ``num_steps`` > 1: few steps), ``heun``, or ``data`` (resampled real images, which give
            the lowest distance that can be expected).
        init_sigma: σ_init of ``one_step``.
        num_steps: Steps n, which take 2n − 1 evaluations for ``heun``; by default 1 for ``one_step``, 18 for ``heun``.
        sigma_min, sigma_max: Range of the noise levels of ``heun``.
        rho: Exponent of the noise levels of ``heun``.
        S_churn, S_min, S_max, S_noise: Fresh noise in each step of ``heun``: amount, range of noise levels, strength.
        guidance: Strength of guidance (``heun``); values other than 1 need a guiding network.
        dtype: ``float64`` or ``float32``; null takes the type of the original tools for the network's family.
        kernels: Kernels of the networks: ``torch``, or ``fused`` (several times faster on a GPU, with other rounding;
            docs/measurements.md).
    """

    kind: Annotated[str, OneOf(SAMPLER_KINDS.keys)]
    init_sigma: Positive = 2.5
    num_steps: Count | None = None
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Annotated[float, Range(least=0.1, most=1000)] = 7.0
    S_churn: NotNegative = 0.0
    S_min: NotNegative = 0.0
    S_max: float = math.inf
    S_noise: Positive = 1.0
    guidance: Finite = 1.0
    dtype: Literal["float32", "float64"] | None = None
    kernels: Literal["torch", "fused"] = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "heun" and self.steps < 2:
            raise SettingError("num_steps", f"must be at least 2, got {self.steps}")
        if not self.sigma_min < self.sigma_max:
            fault = f"must lie between 0 and sigma_max = {self.sigma_max}, got {self.sigma_min}"
            raise SettingError("sigma_min", fault)

    @property
    def needs_network(self) -> bool:
        """Whether a network draws the images; they are real ones otherwise."""
        return self.kind != "data"

    @property
    def steps(self) -> int:
        """Number of steps; the default if ``num_steps`` is None."""
        return self.num_steps or (18 if self.kind == "heun" else 1)

    @property
    def nfe(self) -> int:
        """Evaluations of the network per image; as in the papers, those of a guiding network do not count.

        Heun's method takes two per step, except one for the last step.
        """
        return {"one_step": self.steps, "heun": 2 * self.steps - 1, "data": 0}[self.kind]

    def given(self) -> dict[str, Any]:
        """Kind, steps and the settings that differ from their defaults, as :func:`read_sampler` takes them."""
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        changed = {name: getattr(self, name) for name, default in fields.items() if getattr(self, name) != default}
        return changed | ({"num_steps": self.steps} if "num_steps" in SAMPLER_KINDS[self.kind] else {})

    def facts(self) -> dict[str, Any]:
        """The settings that decide the images, as JSON values for records; ``kernels`` only if it is not ``torch``."""
        facts = {key: value for key, value in dataclasses.asdict(self).items() if value != math.inf}
        return {key: value for key, value in facts.items() if (key, value) != ("kernels", "torch")}


def read_sampler(value: Sampler | Mapping[str, Any] | str, where: str = "sampler") -> Sampler:
    """Reads a sampler from a mapping of its fields, or from text such as ``heun:18,S_churn=40``.

    The number after the colon is ``num_steps``; settings follow as ``key=number``.

    Raises:
        UserError: The kind or a key is unknown, the kind does not read a key, or a value is out of range.
    """
    if isinstance(value, Sampler):
        return value
    mapping = _parsed(value, where) if isinstance(value, str) else value
    sampler = from_mapping(Sampler, mapping, where)
    for key in mapping:
        if key not in {"kind", *SAMPLER_KINDS[sampler.kind]}:
            raise UserError(f"{where}.{key}", f"a sampler of kind '{sampler.kind}' does not read it", "remove it")
    return sampler


def _parsed(text: str, where: str) -> dict[str, Any]:
    kind, *parts = text.replace(":", ",", 1).split(",")
    mapping: dict[str, Any] = {"kind": kind.replace("-", "_")}
    for part in filter(None, parts):
        key, equals, number = part.partition("=")
        if not equals:
            key, number = "num_steps", key
        if key in mapping:
            raise UserError(f"{where}.{key}", "is given twice", "remove one of them")
        known = (number_in(number, kind) for kind in (int, float))
        mapping[key] = next((value for value in known if value is not None), number)
    if mapping["kind"] not in SAMPLER_KINDS:
        raise UserError(where, f"unknown sampler '{text}'", f"use {', '.join(SAMPLER_KINDS)}, e.g. heun:18,S_churn=40")
    return mapping
