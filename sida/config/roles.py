"""Roles of settings: whether all methods read a setting, its official value, and its use in digests.

A role is metadata of the setting's field, so that a new setting is one field with its description. Lists of settings
are computed from the roles. A loss's own setting is a field with a role of the loss's class.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from sida.config.settings import type_hints

_KEY = "role"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """Role of a setting.

    Attributes:
        some_methods: Whether only some methods read it (:attr:`sida.methods.Method.settings`).
        official: Value for methods without an official value of their own; None: there is none.
        recorded: Value in digests if the method does not read the setting; None: the setting's value.
        decides: Whether it can affect the result; digests leave out the others.
        always: Whether a digest always holds it, as the first recorded digests do. Digests hold a younger setting only
            if it differs from its default, so that a new setting changes no recorded digest.
    """

    some_methods: bool = False
    official: Any = None
    recorded: Any = None
    decides: bool = True
    always: bool = False


#: Role of a field that is written without one: the settings of the first recorded digests.
_PLAIN = Role(always=True)


def setting(default: Any = None, *, factory: Callable[[], Any] | None = None, **role: Any) -> Any:
    """A field of a class of settings with a role.

    Args:
        default: Its default.
        factory: Makes the default of a setting that can be changed in place.
        **role: Values of :class:`Role` that differ from their defaults.
    """
    metadata = {_KEY: Role(**role)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def roles(cls: type) -> dict[str, Role]:
    """Roles of a class's settings by name; a setting whose type a derived class narrows keeps its role."""
    stated: dict[str, Role] = {}
    for base in reversed(cls.__mro__):
        for field in getattr(base, "__dataclass_fields__", {}).values():
            if _KEY in field.metadata:
                stated[field.name] = field.metadata[_KEY]
    return {field.name: stated.get(field.name, _PLAIN) for field in dataclasses.fields(cls)}


def decisive(settings: Any) -> dict[str, Any]:
    """Values of settings by name for a digest or record.

    Settings that do not affect the result are left out, and younger ones that have their default.

    Args:
        settings: An instance of a class of settings; its values are copied.
    """
    values = dataclasses.asdict(settings)
    for field in dataclasses.fields(settings):
        role = roles(type(settings))[field.name]  # type: ignore[arg-type]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if not role.decides or (not role.always and values[field.name] == default):
            del values[field.name]
    return values


def own_settings(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Fields of a class that is not one of settings, such as a loss, that :func:`setting` writes, by name."""
    return {field.name: field for field in dataclasses.fields(cls) if _KEY in field.metadata}


@functools.cache
def with_own_settings(settings: type[Any], classes: tuple[type, ...]) -> type[Any]:
    """Returns a class of settings with the own settings of other classes, whose docstrings describe them.

    Args:
        settings: A frozen dataclass of settings; returned itself if there are no others.
        classes: Classes with own settings; of equal names, the last one counts.
    """
    fields: dict[str, tuple[str, Any, Any]] = {}
    for cls in classes:
        for name, field in own_settings(cls).items():
            default: Any = dataclasses.field(default=field.default, default_factory=field.default_factory)
            fields[name] = (name, type_hints(cls)[name], default)
    if not fields:
        return settings
    namespace = {"__doc__": settings.__doc__, "described_by": classes}
    name, frozen = settings.__name__, settings.__dataclass_params__.frozen
    return dataclasses.make_dataclass(
        name, fields.values(), bases=(settings,), namespace=namespace, frozen=frozen, kw_only=True
    )
