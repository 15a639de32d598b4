"""Settings that a recipe leaves out: those of its method on its teacher's network family."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sida.errors import UserError
from sida.families import Family
from sida.methods import find_method
from sida.networks import family_of
from sida.training.config import DistillConfig, WeightNorm

#: Adam's ε in float32 and in float16.
EPS, EPS_FP16 = 1e-8, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SettledConfig(DistillConfig):
    """A configuration in which every setting has its value; see :func:`settled`."""

    alpha: float
    init_sigma: float
    P_mean: float
    P_std: float
    lambda_d: float
    grad_clip_value: float
    warmup_kimg: float
    ema_half_life_kimg: float
    weight_norm: WeightNorm | None
    fake_score_weight_norm: WeightNorm | None
    logvar: bool
    eps: float
    fp16: bool


def settled(config: DistillConfig, network: Mapping[str, Any], where: str = "student") -> SettledConfig:
    """The configuration with official values for all that it leaves out.

    Args:
        config: Settings; those that are null are filled in.
        network: ``{class, kwargs}`` of the teacher.
        where: Place named in errors.

    Raises:
        UserError: A setting that the teacher's family does not have, or a start that the method does not have.
    """
    method = find_method(config.method, f"{where}.method")
    try:
        method.check(config.init, config.real_source)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None
    family, kwargs = family_of(network, f"{where}.teacher: {config.teacher}"), network["kwargs"]
    _check(config, family, family.has_variance_head(network), where)
    values = method.settings_of(family, f"{where}.teacher: {config.teacher}")
    values["logvar"] &= family.has_variance_head(network)
    on_gpu = config.device.startswith("cuda")
    # Float16 is a GPU's affair; elsewhere the flag of a network does nothing.
    values["fp16"] = on_gpu and bool(kwargs.get("use_fp16", family.fp16))
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(DistillConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    fp16 = {**values, **given}["fp16"]
    return SettledConfig(**{**fields, **values, "eps": EPS_FP16 if fp16 else EPS, **given})


def _check(config: DistillConfig, family: Family, head: bool, where: str) -> None:
    if config.augment is not None and not family.augmentation:
        raise UserError(f"{where}.augment: {family.title} networks take no augmentation; set it to null")
    for key in ("weight_norm", "fake_score_weight_norm"):
        if getattr(config, key) and not family.weight_norm:
            raise UserError(f"{where}.{key}: {family.title} networks do not have it ({config.teacher}); remove it")
    if config.logvar and not head:
        raise UserError(f"{where}.logvar: {config.teacher} has no log-variance head; set it to false")
