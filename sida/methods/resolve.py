"""Resolution of a student's configuration: fills in every default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from sida.config.families import Family
from sida.config.recipe import OFFICIAL_SETTINGS, WEIGHT_NORMS, ResolvedConfig, StudentConfig
from sida.config.settings import OneOf
from sida.errors import SettingError, UserError
from sida.methods.registry import BETAS, METHODS, UNREAD, find_method

#: Adam's ε in float32 and in float16.
EPS, EPS_FP16 = 1e-8, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(StudentConfig):
    """Configuration of a distillation by a known method; see :class:`StudentConfig`."""

    method: Annotated[str, OneOf(METHODS.keys, or_object=True)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method in METHODS:
            METHODS[self.method].check(self)


def resolve_recipe(config: StudentConfig, network: Mapping[str, Any], where: str = "student") -> ResolvedConfig:
    """Returns the configuration with official values for all missing settings.

    Args:
        config: Settings; settings that are None get their default.
        network: ``{class, kwargs}`` of the teacher.
        where: Place named in errors.

    Raises:
        UserError: The teacher's family or the method does not have a setting or the start, or a setting has neither
            value nor default.
    """
    from sida.networks import family_of

    method = find_method(config.method, f"{where}.method")
    try:
        method.check(config)
    except SettingError as error:
        raise error.inside(where) from None
    family, kwargs = family_of(network, f"{where}.teacher: {config.teacher}"), network["kwargs"]
    _check(config, family, family.has_variance_head(network), where)
    unread = {name: value for name, value in UNREAD.items() if name in method.unread}
    values = {"betas": BETAS, **unread, **method.settings_of(family, f"{where}.teacher: {config.teacher}")}
    values["logvar"] = family.has_variance_head(network) and values.get("logvar")
    on_gpu = config.device.startswith("cuda")
    # Only a GPU computes in float16; on a CPU the flag of a network has no effect.
    values["fp16"] = on_gpu and bool(kwargs.get("use_fp16", family.fp16))
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(StudentConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    fp16 = {**values, **given}["fp16"]
    values = {**fields, **values, "eps": EPS_FP16 if fp16 else EPS, **given}
    left = [name for name in OFFICIAL_SETTINGS if values[name] is None]
    if left:
        raise UserError(
            f"{where}.method",
            f"'{method.name}' has no default for {', '.join(left)} with {family.title} networks",
            "add it to the method's defaults, or set it",
        )
    try:
        return ResolvedConfig(**values)
    except SettingError as error:
        raise error.inside(where) from None


def _check(config: StudentConfig, family: Family, head: bool, where: str) -> None:
    if config.augment is not None and not family.augmentation:
        raise UserError(f"{where}.augment", f"{family.title} networks take no augmentation", "set it to null")
    for key in WEIGHT_NORMS:
        if getattr(config, key) and not family.weight_norm:
            raise UserError(f"{where}.{key}", f"{family.title} networks do not have it ({config.teacher})", "remove it")
    if config.logvar and not head:
        raise UserError(f"{where}.logvar", f"{config.teacher} has no log-variance head", "set it to false")


def recipe_of(method: str = "sida", network: str = "EDMPrecond", **given: Any) -> ResolvedConfig:
    """Makes a resolved recipe without files, for networks that Python code puts together (:class:`Distiller`).

    Args:
        method: Name of the method whose defaults it has.
        network: Class of the networks.
        **given: Settings with other values.
    """
    init = "initial" if find_method(method).start == "generator" else None
    files = {"name": method, "teacher": "teacher", "init": init, "dataset": {"name": "data", "kind": "digits"}}
    rest = {"total_kimg": 1000.0, "batch_size": 1, "lr": 1e-5}
    config = DistillConfig(method=method, **{**files, **rest, **given})
    return resolve_recipe(config, {"class": network, "kwargs": {}})
