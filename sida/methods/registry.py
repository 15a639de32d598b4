"""All distillation methods by name, and the configuration of a run with all defaults.

A custom method is also a :class:`~sida.methods.method.Method`, named ``module:object``.
"""

import contextlib
import dataclasses
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from sida import networks
from sida.assets.registry import load_registry
from sida.config.feature_networks import UNKNOWN
from sida.config.lookup import foreign_faults
from sida.config.recipe import OFFICIAL, WEIGHT_NORMS, ResolvedConfig, StudentConfig
from sida.config.registries import Registry
from sida.config.settings import OneOf, names_object
from sida.errors import SettingError, settings_in
from sida.methods.method import Exposure, Method

METHODS: Registry[Method] = Registry("methods", "method", "sida.methods.method:Method")


def exposure_of_training(header: Mapping[str, Any]) -> Exposure | None:
    """Feature networks that a network's training was exposed to, by the header of its file; None if nothing states it.

    Trainings of this suite record their method, and whether a network that they start from is unknown. Released
    files are those of the registry, which is known by where a file was converted from.
    """
    method, origin = header.get("method"), header.get("origin")
    if header.get("saw") == UNKNOWN:
        return None
    if method == "teacher":
        return Exposure()
    if isinstance(method, str) and method in METHODS:
        return METHODS[method].exposure
    # Files that the registry asks to be put by hand have no address.
    released = {asset.url for asset in load_registry().values()}
    return Exposure() if isinstance(origin, Mapping) and origin.get("url") in released else None


def find_method(name: str, where: str = "method") -> Method:
    """Returns the method of a name, or the custom method ``module:object``.

    Raises:
        UserError: The method does not exist.
    """
    method: Method = METHODS.find(name, where)
    return method


@contextlib.contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Turns exceptions of a custom method's code into one line with the file and line there."""
    try:
        yield
    except Exception as error:
        module = sys.modules.get(name.partition(":")[0])
        frames = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        if not names_object(name) or getattr(module, "__file__", None) not in frames:
            raise
        with foreign_faults(name, module):
            raise


#: Adam's ε in float32 and in float16.
EPS, EPS_FP16 = 1e-8, 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(StudentConfig):
    """Configuration of a distillation by a known method; see :class:`StudentConfig`."""

    method: Annotated[str, OneOf(METHODS.keys, or_object=True, missing=METHODS.missing)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method in METHODS:
            METHODS[self.method].check(self)


def checked_method(config: StudentConfig, where: str) -> Method:
    """Returns the method of a configuration after checking the configuration.

    Raises:
        UserError: The method does not exist, has another start, or does not read a setting.
    """
    method = find_method(config.method, f"{where}.method")
    with settings_in(where):
        method.check(config)
    return method


def resolve_recipe(config: StudentConfig, network: Mapping[str, Any], where: str = "student") -> ResolvedConfig:
    """Returns the configuration with official values for all missing settings.

    Args:
        config: Settings; settings that are None get their default.
        network: ``{class, kwargs}`` of the teacher, or the recipe's ``network`` for a method without a teacher.
        where: Place named in errors.

    Raises:
        UserError: As of :func:`resolve_settings`, or the network's class does not have an option.
    """
    resolved = resolve_settings(config, network, where)
    with settings_in(where):
        networks.adjusted(network, config.network_options, "network_options")
    return resolved


def resolve_settings(config: StudentConfig, network: Mapping[str, Any], where: str = "student") -> ResolvedConfig:
    """The part of :func:`resolve_recipe` that does not need the code of a registered network, and so no torch.

    Raises:
        UserError: The teacher's family or the method does not have a setting or the start, or a setting has neither
            value nor default.
    """
    method = checked_method(config, where)
    teacher = f"{where}.network" if config.teacher is None else f"{where}.teacher: {config.teacher}"
    family, kwargs = networks.family_of(network, teacher), network["kwargs"]
    head = family.has_variance_head(network)
    defaults = {**OFFICIAL, **method.settings_of(family, teacher)}
    defaults["logvar"] = head and defaults["logvar"]
    # Only a GPU computes in float16; on a CPU the flag of a network has no effect.
    defaults["fp16"] = config.device.startswith("cuda") and bool(kwargs.get("use_fp16", family.fp16))
    fp16 = defaults["fp16"] if config.fp16 is None else config.fp16
    defaults["eps"] = EPS_FP16 if fp16 else EPS
    values = vars(config) | {name: value for name, value in defaults.items() if getattr(config, name) is None}
    with settings_in(where):
        # Not every network family has these settings.
        if config.augment is not None and not family.augmentation:
            raise SettingError("augment", f"{family.title} networks take no augmentation", "set it to null")
        for key in WEIGHT_NORMS:
            if getattr(config, key) and not family.weight_norm:
                raise SettingError(key, f"{family.title} networks do not have it ({config.teacher})", "remove it")
        if config.gradient == "all" and values["weight_norm"] not in (None, "off"):
            fault = f"'all' needs weights that a step does not rewrite, and weight_norm is {values['weight_norm']}"
            raise SettingError("gradient", fault, "set it to last, or weight_norm to off")
        if values["dropout"] and not networks.has_option(network, "dropout", teacher):
            raise SettingError("dropout", f"{network['class']} does not have it ({config.teacher})", "remove it")
        if config.logvar and not head:
            raise SettingError("logvar", f"{config.teacher} has no log-variance head", "set it to false")
        if missing := [name for name in inspect.get_annotations(ResolvedConfig) if values[name] is None]:
            fault = f"'{method.name}' has no default for {', '.join(missing)} with {family.title} networks"
            raise SettingError("method", fault, "add it to the method's official values, or set it")
        return ResolvedConfig(**values)


def recipe_of(method: str = "sida", network: str = "EDMPrecond", **settings: Any) -> ResolvedConfig:
    """Makes a resolved recipe without files, for networks built in Python (:class:`Distiller`).

    Args:
        method: Name of the method whose defaults the recipe takes.
        network: Class of the networks.
        **settings: Values that replace defaults.
    """
    start = find_method(method).start
    init, teacher = "initial" if start == "generator" else None, None if start == "scratch" else "teacher"
    files = {"name": method, "teacher": teacher, "init": init, "dataset": {"name": "data", "kind": "digits"}}
    required = {"total_kimg": 1000.0, "batch_size": 1, "lr": 1e-5}
    config = DistillConfig(method=method, **{**files, **required, **settings})
    return resolve_recipe(config, {"class": network, "kwargs": {}})
