"""Kinds of samplers and their settings, and parsing of texts such as ``heun:18``.

:mod:`sida.sampling` draws the images. This module does not import torch, for presets and specs.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from sida.config.families import DECODERS
from sida.config.kernels import KernelName
from sida.config.registries import Registry
from sida.config.roles import decisive, setting
from sida.config.settings import Count, Finite, NotNegative, OneOf, Positive, Range, Settings, from_mapping
from sida.errors import SettingError, UserError
from sida.files.text_files import number_in

#: Word for the level of pure noise, ``init_sigma`` = ∞.
INFINITE = "infinite"
#: σ_init of a generator's steps.
InitSigma = Positive | Literal["infinite"]
#: Noise that a step after the first adds: drawn anew, or the first step's.
StepNoise = Literal["fresh", "fixed"]
#: Whether the levels of steps fall in equal parts of σ or of a flow's time t = σ / (1 + σ).
StepLevels = Literal["sigma", "time"]


@dataclasses.dataclass(frozen=True)
class GeneratorSteps:
    """Steps of a generator: a first one from noise of level σ_init, and further ones that add and remove less noise.

    Attributes:
        count: Number of steps n.
        init_sigma: σ_init, or ``infinite``: pure noise.
        noise: Noise that a step after the first adds: ``fresh``, or ``fixed``: always the first step's.
        levels: Levels of the steps i = 0 … n − 1: ``sigma``: σ_init (1 − i/n). ``time``: those of the times
            t_init (1 − i/n), t = σ / (1 + σ).
    """

    count: int = 1
    init_sigma: float | Literal["infinite"] = 2.5
    noise: StepNoise = "fresh"
    levels: StepLevels = "sigma"

    @property
    def sigmas(self) -> list[float]:
        """Levels of the steps after the first, n − 1 falling numbers."""
        shares = [1 - step / self.count for step in range(1, self.count)]
        if self.levels == "sigma":
            return [float(self.init_sigma) * share for share in shares]
        start = 1.0 if isinstance(self.init_sigma, str) else self.init_sigma / (1 + self.init_sigma)
        return [start * share / (1 - start * share) for share in shares]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerKind:
    """A kind of sampler. Its computation is an entry of :data:`sida.sampling.generate.DRAWINGS`, except for ``data``.

    Attributes:
        arguments: Settings that its function takes by name.
        further: Other settings that it reads.
        steps: Default of ``num_steps``; a record of a measurement states other numbers than 1.
        least: Smallest number of steps, by the sampler.
        nfe: Evaluations of the network per image, by the sampler.
        network: Whether a network draws the images; they are real ones otherwise.
    """

    arguments: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    steps: int = 1
    least: Callable[["Sampler"], int] = lambda sampler: 1
    nfe: Callable[["Sampler"], int] = lambda sampler: sampler.steps
    network: bool = True

    @property
    def settings(self) -> tuple[str, ...]:
        """All settings that it reads."""
        return self.arguments + self.further


#: Settings of guidance, and those that samplers of teachers read besides their function's arguments.
_GUIDANCE = ("guidance", "guidance_channels", "guidance_min", "guidance_max")
_NETWORK = ("kernels", "decoder")
TEACHER_SETTINGS = ("num_steps", "dtype", *_GUIDANCE, *_NETWORK)
ONE_STEP = SamplerKind(further=("num_steps", "init_sigma", "noise", "step_levels", *_NETWORK))
HEUN = SamplerKind(
    arguments=("sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise"),
    further=TEACHER_SETTINGS,
    steps=18,
    least=lambda sampler: 2,
    # Two evaluations a step, except for the last one.
    nfe=lambda sampler: 2 * sampler.steps - 1,
)
DATA = SamplerKind(nfe=lambda sampler: 0, network=False)
SAMPLER_KINDS: Registry[SamplerKind] = Registry("samplers", "sampler")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(Settings):
    """A sampler with its settings; keys as in :func:`sida.sampling.heun`.

    Attributes:
        kind: ``one_step`` (few steps by ``num_steps``, ``noise`` and ``step_levels``), ``heun``, ``flow`` (equal steps
            of a flow's time from noise to the image, for networks of velocities), ``ddpm`` (random steps with the
            variance that DiT learned), ``consistency`` and ``segments`` (students of sCM), or ``data`` (resampled real
            images, which give the lowest distance that can be expected).
        init_sigma: σ_init of ``one_step``; ``infinite``: pure noise, for networks of flows, which have this level.
        num_steps: Steps n, which take 2n − 1 evaluations for ``heun`` and 2n for ``flow`` with the method ``heun``;
            null is 1 for ``one_step``, 18 for ``heun``, 250 for ``flow`` and ``ddpm``.
        noise: Noise that a step after the first adds: ``fresh``, or ``fixed``: always the first step's.
        step_levels: Levels of the steps i = 0 … n − 1: ``sigma``: σ_init (1 − i/n); ``time``: t_init (1 − i/n) with a
            flow's time t = σ / (1 + σ), which is 1 for ``infinite``.
        sigma_min, sigma_max: Range of the noise levels of ``heun``; the latter is the first level of ``consistency``
            and ``segments``.
        rho: Exponent of the noise levels of ``heun``.
        S_churn, S_min, S_max, S_noise: Fresh noise in each step of ``heun``: amount, range of noise levels, strength.
        method: Method of ``flow``; ``euler_maruyama`` is the stochastic one of SiT and REPA with diffusion t: n − 1
            noisy steps to t = ``last_step`` and then one without noise.
        last_step: Length of that last step.
        guidance: Strength of guidance (``heun``, ``flow``, ``ddpm``); other than 1 it needs a guiding network, or the
            null label of the network.
        guidance_channels: Number of leading channels that are guided; null is all. Published FIDs of DiT and SiT have 3
            of 4.
        guidance_min, guidance_max: Levels σ with guidance; a flow's time t is the level t / (1 − t).
        dtype: Type of the sampler's state; null takes the one that the original tools have for the network's family.
        kernels: Kernels of the networks, which on a GPU are faster and round differently (docs/measurements.md):
            ``fused`` has some for U-Nets, ``compiled`` compiles the blocks of any network.
        decoder: Decoder of a network of latents; null takes ``sd-vae-ft-ema`` for SiT, REPA and DiT, which take either,
            and ``sd-vae-ft-mse`` for EDM2.
    """

    kind: Annotated[str, OneOf(SAMPLER_KINDS.keys, missing=SAMPLER_KINDS.missing)]
    init_sigma: InitSigma = 2.5
    num_steps: Count | None = None
    noise: StepNoise = setting("fresh")
    step_levels: StepLevels = setting("sigma")
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Annotated[float, Range(least=0.1, most=1000)] = 7.0
    S_churn: NotNegative = 0.0
    S_min: NotNegative = 0.0
    S_max: float = math.inf
    S_noise: Positive = 1.0
    method: Literal["euler", "heun", "euler_maruyama"] = setting("heun")
    last_step: Annotated[float, Range(above=0, below=1)] = setting(0.04)
    guidance: Finite = 1.0
    guidance_channels: Count | None = setting(None)
    guidance_min: NotNegative = setting(0.0)
    guidance_max: float = setting(math.inf)
    dtype: Literal["float32", "float64"] | None = None
    kernels: KernelName = setting("torch")
    decoder: Annotated[str, OneOf(DECODERS.keys)] | None = setting(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < (least := self.entry.least(self)):
            raise SettingError("num_steps", f"must be at least {least}, got {self.steps}")
        if self.kind == "one_step":
            check_steps(self.generator_steps)
        if not self.guidance_min <= self.guidance_max:
            raise SettingError("guidance_min", f"{self.guidance_min} is above guidance_max = {self.guidance_max}")
        if not self.S_min <= self.S_max:
            raise SettingError("S_min", f"{self.S_min} is above S_max = {self.S_max}")
        if not self.sigma_min < self.sigma_max:
            fault = f"must lie between 0 and sigma_max = {self.sigma_max}, got {self.sigma_min}"
            raise SettingError("sigma_min", fault)

    @property
    def entry(self) -> SamplerKind:
        """The entry of the kind in :data:`SAMPLER_KINDS`."""
        return SAMPLER_KINDS[self.kind]

    @property
    def needs_network(self) -> bool:
        """Whether a network draws the images; they are real ones otherwise."""
        return self.entry.network

    @property
    def steps(self) -> int:
        """Number of steps; the default if ``num_steps`` is None."""
        return self.num_steps or self.entry.steps

    @property
    def nfe(self) -> int:
        """Evaluations of the network per image; as in the papers, those of a guiding network do not count."""
        return self.entry.nfe(self)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the kind's function."""
        return {name: getattr(self, name) for name in self.entry.arguments}

    @property
    def guiding(self) -> tuple[Any, ...]:
        """Strength, channels and levels of guidance."""
        return tuple(getattr(self, name) for name in _GUIDANCE)

    def explicit_settings(self) -> dict[str, Any]:
        """Kind, steps and the settings that differ from their defaults, as :func:`read_sampler` takes them."""
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        settings = {name: getattr(self, name) for name, default in fields.items() if getattr(self, name) != default}
        return settings | ({"num_steps": self.steps} if "num_steps" in self.entry.settings else {})

    def facts(self) -> dict[str, Any]:
        """The settings that affect the images, as JSON values for records; younger ones only if not default."""
        return {name: value for name, value in decisive(self).items() if value != math.inf}

    @property
    def generator_steps(self) -> GeneratorSteps:
        """Steps of ``one_step``."""
        return GeneratorSteps(self.steps, self.init_sigma, self.noise, self.step_levels)

    def unlike(self, other: "Sampler") -> str:
        """Steps of a generator's training that differ from these, such as ``num_steps=4``; empty if none do."""
        if self.kind != "one_step" or other.kind != "one_step":
            return ""
        # One step adds no noise and has no second level.
        names = ("num_steps", "noise", "step_levels") if max(self.steps, other.steps) > 1 else ()
        own, its = ({**vars(each), "num_steps": each.steps} for each in (self, other))
        return ",".join(f"{name}={its[name]}" for name in names if own[name] != its[name])


def check_steps(steps: GeneratorSteps) -> None:
    """Checks that a generator's steps after the first have levels.

    Raises:
        SettingError: An infinite σ cannot fall in equal parts.
    """
    if steps.count > 1 and steps.init_sigma == INFINITE and steps.levels == "sigma":
        raise SettingError("step_levels", "'sigma' has no levels below an infinite init_sigma", "set it to time")


def read_sampler(
    value: Sampler | Mapping[str, Any] | str, where: str = "sampler", trained: Mapping[str, Any] | None = None
) -> Sampler:
    """Reads a sampler from a mapping of its fields, or from text such as ``heun:18,S_churn=40``.

    The number after the colon is ``num_steps``; settings follow as ``key=value``.

    Args:
        value: The sampler.
        where: Place named in errors.
        trained: Sampler of the generator's training; a sampler of the same kind takes its settings unless ``value`` has
            others.

    Raises:
        UserError: The kind or a key is unknown, the kind does not read a key, or a value is out of range.
    """
    if isinstance(value, Sampler):
        return value
    mapping = _parsed(value, where) if isinstance(value, str) else value
    if trained is not None and isinstance(mapping, Mapping) and trained.get("kind") == mapping.get("kind"):
        mapping = {**trained, **mapping}
    sampler = from_mapping(Sampler, mapping, where)
    for key in mapping:
        if key not in {"kind", *sampler.entry.settings}:
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
        numbers = (number_in(number, kind) for kind in (int, float))
        mapping[key] = next((value for value in numbers if value is not None), number)
    if mapping["kind"] not in SAMPLER_KINDS:
        if missing := SAMPLER_KINDS.missing(mapping["kind"]):
            raise UserError(where, *missing)
        raise UserError(where, f"unknown sampler '{text}'", f"use {', '.join(SAMPLER_KINDS)}, e.g. heun:18,S_churn=40")
    return mapping
