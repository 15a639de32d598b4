"""Constructor options of networks: checks against a class's signature, and records for building the network again."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

from sida.config.settings import from_mapping
from sida.errors import SettingError


def check_options(cls: type, options: Mapping[str, Any], where: str, extra: type | None = None) -> dict[str, Any]:
    """Checks keyword arguments of a network class before it is called.

    Args:
        cls: Network class, whose annotated ``__init__`` is the schema.
        options: Keyword arguments, e.g. from JSON; lists are accepted for tuples.
        where: Place named in errors.
        extra: Class whose options are accepted, too: the U-Net of a preconditioner, without the options that the
            preconditioner sets.

    Returns:
        The given options, in the annotated types.

    Raises:
        UserError: A key is unknown or missing (the message has the valid names), or has a wrong type or value.
    """
    fields = _fields(cls)
    if extra is not None:
        fields.update({k: v for k, v in _fields(extra).items() if k not in fields and k not in SET_BY_PRECOND})
    required = [(k, hint) for k, (hint, default) in fields.items() if default is inspect.Parameter.empty]
    optional = [
        (k, hint, dataclasses.field(default=default))
        for k, (hint, default) in fields.items()
        if default is not inspect.Parameter.empty
    ]
    schema = dataclasses.make_dataclass(
        cls.__name__, [*required, *optional], namespace={"__post_init__": _check_ranges}
    )
    checked: Any = from_mapping(schema, options, where)
    return {name: getattr(checked, name) for name in options}


_COUNTS = ("label_dim", "augment_dim")
_LARGEST = {"img_resolution": 4096, "label_dim": 1_000_000, "num_blocks": 64}
_LARGEST_OTHER, _LONGEST = 65_536, 32
_INFINITE = ("sigma_max",)
_SHARES = ("dropout", "label_dropout", "label_balance", "concat_balance", "res_balance", "attn_balance")


def _check_ranges(options: Any) -> None:
    """Checks that sizes are positive and bounded, counts not negative, shares in [0, 1), other numbers finite.

    The resolution must be divisible by two once per level. An untrusted file may give these options, and the network is
    built before the file's tensors are compared.
    """
    for name, value in vars(options).items():
        if name in _SHARES:
            if not 0 <= value < 1:
                raise SettingError(name, f"must be in [0, 1), got {value}")
            continue
        lowest, highest = 0 if name in _COUNTS else 1, _LARGEST.get(name, _LARGEST_OTHER)
        if isinstance(value, tuple) and len(value) > _LONGEST:
            raise SettingError(name, f"must have at most {_LONGEST} entries, got {len(value)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number) and not (name in _INFINITE and number > 0):
                raise SettingError(name, f"must be a finite number, got {number}")
            if not isinstance(number, int) or isinstance(number, bool):
                continue
            if number < lowest:
                raise SettingError(name, f"must be at least {lowest}, got {number}")
            if number > highest:
                raise SettingError(name, f"must be at most {highest}, got {number}")
    if hasattr(options, "channel_mult") and hasattr(options, "img_resolution"):
        _check_levels(options.img_resolution, options.channel_mult)


def _check_levels(img_resolution: int, channel_mult: tuple[int, ...]) -> None:
    if not channel_mult:
        raise SettingError("channel_mult", "must have at least one level")
    divisor = 2 ** (len(channel_mult) - 1)
    if img_resolution < divisor or img_resolution % divisor:
        raise SettingError(
            "img_resolution",
            f"{img_resolution} cannot be halved {len(channel_mult) - 1} times",
            f"use a multiple of {divisor} or fewer entries in channel_mult",
        )


# Options of a U-Net that its preconditioner sets.
SET_BY_PRECOND = ("in_channels", "out_channels")


def _fields(cls: type) -> dict[str, tuple[Any, Any]]:
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    parameters = list(inspect.signature(cls).parameters.values())
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: (hints[p.name], p.default) for p in named}


def describe_options(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``{"class", "kwargs"}`` as strict JSON values: lists for tuples, null for infinity.

    Args:
        cls: Network class.
        options: Values by parameter name; other names (``self``, locals) are ignored.
    """
    kwargs = {name: _plain(options[name]) for name in _fields(cls) if name in options}
    return {"class": class_name(cls), "kwargs": kwargs}


def class_name(cls: type) -> str:
    """Name of a class for :func:`sida.networks.build_network`; ``module:object`` for a custom class."""
    inside = cls.__module__.startswith("sida.networks.")
    return cls.__name__ if inside else f"{cls.__module__}:{cls.__qualname__}"


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return None
    return value
