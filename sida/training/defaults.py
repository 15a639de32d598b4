"""Settings that a recipe leaves out: those of its method on its teacher's network family."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from sida.errors import UserError
from sida.methods import find_method
from sida.training.config import DistillConfig, WeightNorm

#: ``edm``: EDM's preconditioning (and VP, VE); ``edm2``: EDM2's networks; ``edm2-s``: those of size S.
Family = Literal["edm", "edm2", "edm2-s"]
#: Base channels of EDM2's size S, and those of a network that does not say.
SIZE_S = 192

#: Adam's ε in float32 and in float16.
EPS, EPS_FP16 = 1e-8, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SettledConfig(DistillConfig):
    """A configuration in which every setting has its value; see :func:`settled`."""

    alpha: float
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


def family_of(network: Mapping[str, Any]) -> Family:
    """Family of a network ``{class, kwargs}``."""
    if network["class"] != "EDM2Precond":
        return "edm"
    return "edm2-s" if network["kwargs"].get("model_channels", SIZE_S) == SIZE_S else "edm2"


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
    family, kwargs = family_of(network), network["kwargs"]
    head = family != "edm" and kwargs.get("logvar_channels", True) is not None
    _check(config, family, head, where)
    if family not in method.defaults:
        known = ", ".join(method.defaults)
        raise UserError(
            f"{where}.teacher: method '{config.method}' is for networks of {known}, {config.teacher} is {family}"
        )
    values = dict(method.defaults[family])
    values["logvar"] &= head
    on_gpu = config.device.startswith("cuda")
    # Float16 is a GPU's affair; elsewhere the flag of a network does nothing.
    values["fp16"] = on_gpu and bool(kwargs.get("use_fp16", family != "edm"))
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(DistillConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    fp16 = {**values, **given}["fp16"]
    return SettledConfig(**{**fields, **values, "eps": EPS_FP16 if fp16 else EPS, **given})


def _check(config: DistillConfig, family: Family, head: bool, where: str) -> None:
    if family != "edm":
        if config.augment is not None:
            raise UserError(f"{where}.augment: EDM2 networks take no augmentation; set it to null")
        if config.logvar and not head:
            raise UserError(f"{where}.logvar: {config.teacher} has no log-variance head; set it to false")
        return
    for key in ("weight_norm", "fake_score_weight_norm", "logvar"):
        if getattr(config, key):
            raise UserError(f"{where}.{key}: only EDM2 networks have it, {config.teacher} has another; remove it")
