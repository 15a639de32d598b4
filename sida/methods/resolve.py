"""Configuration of a student, and its resolution: every default filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from sida.config.evaluation import Evaluation
from sida.config.families import Family
from sida.config.ranges import As, Finite, OneOf
from sida.errors import UserError
from sida.methods.defaults import BETAS
from sida.methods.recipe import _NORMS, Recipe, SettledConfig
from sida.methods.registry import METHODS, find_method
from sida.training.config import JobSettings

#: Adam's ε in float32 and in float16.
EPS, EPS_FP16 = 1e-8, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(Recipe, JobSettings):
    """A one-step generator to distil from a teacher.

    Attributes:
        method: Name in :data:`sida.methods.registry.METHODS`: ``sid`` (no real images), ``sida`` (with the adversarial term),
            ``sid2a`` (sida from a distilled generator), ``gdd`` (a discriminator alone), ``gdd-i`` (most of the
            generator frozen), ``instance`` (the teacher's images of the same latents); or ``module:object`` of one's
            own.
        teacher: Path of the teacher's network.
        init: Path of the generator to start from: needed by sid2a, allowed for sid (a *restart*: fresh fake score and
            optimisers without the adversarial term, the control for SiD2A), refused by sida.
        guide: Path of the guiding network, with ``guidance`` other than 1: for as many pixels and channels as the
            teacher, with as many classes or none.
        alpha: α of the SiD term; null takes the official one.
        evaluation: null, or ``{every_kimg, monitor: "module:factory", kwargs, ...}``; decides the network that is kept.
    """

    method: Annotated[str, OneOf(METHODS.keys, or_object=True)]
    teacher: str
    init: str | None = None
    guide: str | None = None
    alpha: Finite | None = None
    evaluation: Annotated[dict[str, Any], As(Evaluation)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method in METHODS:
            METHODS[self.method].check(self.init, self.real_source, self.guidance, self.kernels)
        if self.guidance != 1 and self.guide is None:
            raise ValueError(f"guidance: {self.guidance:g} needs a guiding network; give its file as guide, or set 1")
        if self.guidance == 1 and self.guide is not None:
            raise ValueError("guide: guides nothing with a guidance of 1; set guidance, or remove the guide")
        if self.kernels == "fused" and not self.device.startswith("cuda"):
            raise ValueError("kernels: 'fused' needs device 'cuda'; set kernels to torch")
        if self.recompute and self.kernels != "fused":
            raise ValueError("recompute: is for kernels 'fused'; without them take checkpointing")
        if self.half == "bfloat16" and (self.fp16 is False or not self.device.startswith("cuda")):
            fault = "says which half precision, and there is none without fp16 on device 'cuda'"
            raise ValueError(f"half: {fault}; set fp16 to true there, or remove it")


def settled(config: DistillConfig, network: Mapping[str, Any], where: str = "student") -> SettledConfig:
    """The configuration with official values for all that it leaves out.

    Args:
        config: Settings; those that are null are filled in.
        network: ``{class, kwargs}`` of the teacher.
        where: Place named in errors.

    Raises:
        UserError: A setting that the teacher's family does not have, a start, guidance or kernels that the method does
            not have, or a setting that neither configuration nor method give.
    """
    from sida.networks import family_of

    method = find_method(config.method, f"{where}.method")
    try:
        method.check(config.init, config.real_source, config.guidance, config.kernels)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None
    family, kwargs = family_of(network, f"{where}.teacher: {config.teacher}"), network["kwargs"]
    _check(config, family, family.has_variance_head(network), where)
    values = {"betas": BETAS, **method.settings_of(family, f"{where}.teacher: {config.teacher}")}
    values["logvar"] = family.has_variance_head(network) and values.get("logvar")
    on_gpu = config.device.startswith("cuda")
    # Float16 is a GPU's affair; elsewhere the flag of a network does nothing.
    values["fp16"] = on_gpu and bool(kwargs.get("use_fp16", family.fp16))
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(DistillConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    fp16 = {**values, **given}["fp16"]
    values = {**fields, **values, "eps": EPS_FP16 if fp16 else EPS, **given}
    left = [name for name in SettledConfig.__annotations__ if values[name] is None and name not in _NORMS]
    if left:
        raise UserError(
            f"{where}.method: '{method.name}' has no default for {', '.join(left)} with {family.title} networks; "
            "add it to the method's defaults, or set it"
        )
    try:
        return SettledConfig(**values)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None


def _check(config: DistillConfig, family: Family, head: bool, where: str) -> None:
    if config.augment is not None and not family.augmentation:
        raise UserError(f"{where}.augment: {family.title} networks take no augmentation; set it to null")
    for key in _NORMS:
        if getattr(config, key) and not family.weight_norm:
            raise UserError(f"{where}.{key}: {family.title} networks do not have it ({config.teacher}); remove it")
    if config.logvar and not head:
        raise UserError(f"{where}.logvar: {config.teacher} has no log-variance head; set it to false")
