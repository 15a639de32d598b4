"""Settings that a recipe leaves out: the official ones of its method on its teacher's network family, in one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from sida.errors import UserError
from sida.training.config import DistillConfig, WeightNorm

#: ``edm``: EDM's preconditioning (and VP, VE); ``edm2``: EDM2's networks; ``edm2-s``: those of size S.
Family = Literal["edm", "edm2", "edm2-s"]
#: Base channels of EDM2's size S, and those of a network that does not say.
SIZE_S = 192

#: Method (SiD2A is SiDA from another start) and family of the table's columns.
COLUMNS: tuple[tuple[str, Family], ...] = (
    ("sid", "edm"), ("sida", "edm"), ("sid", "edm2"), ("sida", "edm2"), ("sid", "edm2-s"), ("sida", "edm2-s"),
)  # fmt: skip
#: The official settings that differ between columns; null of a setting in a recipe is the value here. What is the same
#: for all stands in :class:`DistillConfig`; what differs between data sets (rates, batches, augmentation) nowhere.
#: Source: mingyuanzhou/SiD, branches main and sida: training scripts, their options' defaults, and the loops.
OFFICIAL: dict[str, tuple[Any, ...]] = {
    #                          EDM           EDM2                        EDM2, size S
    #                          SiD   SiDA    SiD           SiDA          SiD           SiDA
    "alpha":                  (1.2,  1.0,    1.0,          1.0,          1.0,          1.0),
    "P_mean":                 (-1.2, -1.2,   -0.4,         -0.4,         -0.4,         -0.4),
    "P_std":                  (1.2,  1.2,    1.0,          1.0,          1.0,          1.0),
    "lambda_d":               (1.0,  1.0,    100.0,        100.0,        100.0,        100.0),
    "grad_clip_value":        (0.0,  1.0,    0.0,          0.0,          0.0,          0.0),
    "warmup_kimg":            (0.0,  100.0,  0.0,          100.0,        0.0,          100.0),
    "ema_half_life_kimg":     (500., 500.,   2000.,        2000.,        2000.,        2000.),
    "weight_norm":            (None, None,   "in_forward", "pre_hook",   "in_forward", "off"),
    "fake_score_weight_norm": (None, None,   "in_forward", "off",        "in_forward", "off"),
    "logvar":                 (False, False, True,         True,         True,         False),
}  # fmt: skip
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


def official(method: str, family: Family) -> dict[str, Any]:
    """The column of :data:`OFFICIAL` for a method (``sid``, ``sida`` or ``sid2a``) and a family."""
    column = COLUMNS.index(("sid" if method == "sid" else "sida", family))
    return {name: row[column] for name, row in OFFICIAL.items()}


def settled(config: DistillConfig, network: Mapping[str, Any], where: str = "student") -> SettledConfig:
    """The configuration with official values for all that it leaves out.

    Args:
        config: Settings; those that are null are filled in.
        network: ``{class, kwargs}`` of the teacher.
        where: Place named in errors.

    Raises:
        UserError: A setting that the teacher's family does not have.
    """
    family, kwargs = family_of(network), network["kwargs"]
    head = family != "edm" and kwargs.get("logvar_channels", True) is not None
    _check(config, family, head, where)
    values = official(config.method, family)
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
