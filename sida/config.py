"""Strict configuration: mappings become frozen dataclasses or one-line errors that name the key.

A setting is defined once, by a field of a dataclass: its annotation has type and range (``lr: Positive``), its default
is the field's, its description stands under ``Attributes`` of the docstring. Checks are made here of the annotations;
:mod:`sida.schema` makes schemas and tables of all four.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from sida.errors import UserError, suggestion

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a finite number, as part of its type: ``Annotated[float, Range(above=0)]``."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    @property
    def words(self) -> str:
        """The bounds in words."""
        if self.least is not None and self.most is not None:
            return f"between {self.least} and {self.most}"
        if (self.least, self.below) == (0, None):
            return "0 or more"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)

    def fault(self, value: float) -> str | None:
        """What is wrong with a number; None where nothing is."""
        if not math.isfinite(value):
            return "must be a finite number"
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        high = (self.most is None or value <= self.most) and (self.below is None or value < self.below)
        if low and high:
            return None
        return (
            "must be 0 or 1"
            if isinstance(value, int) and (self.least, self.most) == (0, 1)
            else f"must be {self.words}"
        )


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Texts that are known by name, as part of a type.

    Attributes:
        names: Function that lists them, so that a registry is asked when a value is checked.
        or_object: Whether ``module:object`` is accepted too.
    """

    names: Callable[[], Iterable[str]]
    or_object: bool = False

    @property
    def words(self) -> str:
        """The names."""
        return f"one of {', '.join(self.names())}{' or module:object' if self.or_object else ''}"

    def fault(self, value: str) -> str | None:
        """What is wrong with a text; None where nothing is."""
        known = value in self.names() or (self.or_object and names_object(value))
        return None if known else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A form of texts, as part of a type: a regular expression, and the form in words."""

    expression: str
    words: str

    def fault(self, value: str) -> str | None:
        """What is wrong with a text; None where nothing is."""
        return None if re.fullmatch(self.expression, value) else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class As:
    """A mapping that a dataclass accepts, as part of a type; it is checked, and kept as it was given."""

    cls: type


@dataclasses.dataclass(frozen=True)
class Variants:
    """Classes of which a key of the mapping picks one, as part of a type, which is their base.

    Attributes:
        key: The key.
        classes: Function that lists the classes by the key's value.
        pick: ``pick(value, where)``: the class for any value, also ``module:object``; it raises UserError for others.
    """

    key: str
    classes: Callable[[], Mapping[str, type]]
    pick: Callable[[str, str], type]

    def read(self, value: Any, base: type, where: str) -> Any:
        """Builds the dataclass that the mapping's key asks for."""
        if isinstance(value, base) or not isinstance(value, Mapping) or self.key not in value:
            return _convert(value, base, where)
        return from_mapping(self.pick(str(value[self.key]), f"{where}.{self.key}"), value, where)


def names_object(text: str) -> bool:
    """Whether a text has the form ``module:object``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), name])


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
#: Integers from 1, and from 0.
Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
#: Id of a run, teacher or data set: it names files.
Name = Annotated[
    str, Pattern("[a-zA-Z0-9][a-zA-Z0-9._-]*", "of letters, digits, '.', '_' and '-', not first one of these")
]
#: ``module:object``, imported when it is used.
ObjectName = Annotated[str, Pattern(r"[^\W\d][\w.]*:[^\W\d]\w*", "a text 'module:object'")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of settings that programs construct themselves: types and ranges are checked then, too.

    Raises:
        ValueError: ``key: what is wrong``.
    """

    def __post_init__(self) -> None:
        for key, hint in type_hints(type(self)).items():  # type: ignore[arg-type]
            try:
                _convert(getattr(self, key), hint, key)
            except UserError as error:
                raise ValueError(str(error)) from None


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Annotations of a class's fields, ranges included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from a mapping.

    Args:
        cls: A dataclass. Its ``__post_init__`` may raise ``ValueError("key: what is wrong")`` for what goes together.
        mapping: Keys are field names (a word of Python ends with ``_`` there). Integers are accepted for floats, lists
            for tuples.
        where: Place named in errors, e.g. ``"config/demo.yaml: teachers.digits-30k"``; a file ends with a colon.

    Raises:
        UserError: Unknown or missing key, wrong type, or a value out of range.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{_shown(where)}: must be a mapping of settings, got {_show(mapping)}")
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = type_hints(cls)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in fields:
            raise UserError(f"{_shown(where)}: unknown key '{key}'{suggestion(str(key), fields)}")
        name = fields[key].name
        values[name] = _convert(value, hints[name], _inside(where, key))
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise UserError(f"{_shown(where)}: key '{key}' is missing; add it")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(_inside(where, str(error))) from None


def from_texts(cls: type[T], texts: Mapping[str, str], where: str) -> T:
    """Builds the dataclass ``cls`` from texts, such as the cells of a row; see :func:`from_mapping`."""
    hints = type_hints(cls)  # type: ignore[arg-type]
    return from_mapping(cls, {key: _number(text, hints.get(key)) for key, text in texts.items()}, where)


def _number(text: str, hint: Any) -> Any:
    """A text as the number that a type hint wants; as it is where it wants or is none."""
    for kind in (int, float):
        if kind in _parts(hint):
            with contextlib.suppress(ValueError):
                return kind(text)
    return text


def _parts(hint: Any) -> set[Any]:
    return {hint}.union(*map(_parts, typing.get_args(hint)))


def _inside(where: str, key: str) -> str:
    """The place of a key: ``config/demo.yaml: seed`` in a file, ``--spec.seed`` elsewhere."""
    return f"{where} {key}" if where.endswith(":") else f"{where}.{key}"


def _shown(where: str) -> str:
    return where.removesuffix(":")


def load_spec(text: str, where: str = "--spec") -> dict[str, Any]:
    """Reads a spec given as JSON text (starts with ``{``) or as the path of a JSON or YAML file.

    Raises:
        UserError: Missing file or text that is not a mapping.
    """
    if not text.lstrip().startswith("{"):
        path = Path(text)
        where = str(path)
        if not path.is_file():
            raise UserError(f"{where}: no such file; give JSON text or the path of a JSON or YAML file")
        text = path.read_text(encoding="utf-8")
        if path.suffix in {".yaml", ".yml"}:
            return load_yaml(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be a mapping, got {_show(value)}")
    return value


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        UserError: Missing file, a syntax error (with its line), or a document that is not a mapping.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a mapping of settings, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Checks ``value`` against a type hint (scalars, unions, tuples, mappings) and returns it in that type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        if isinstance(args[1], Variants):
            return args[1].read(value, args[0], where)
        converted = _convert(value, args[0], where)
        for rule in args[1:]:
            if isinstance(rule, As):
                from_mapping(rule.cls, converted, where)
            elif (fault := rule.fault(converted)) is not None:
                raise UserError(f"{where}: {fault}, got {_show(value)}")
        return converted
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        for option in options[:-1]:
            try:
                return _convert(value, option, where)
            except UserError:
                continue
        return _convert(value, options[-1], where)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: must be one of {', '.join(map(str, args))}, got {_show(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: must be a list, got {_show(value)}")
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise UserError(f"{where}: must have {len(inner)} entries, got {len(value)}")
        return tuple(_convert(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, inner)))
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: must be a mapping, got {_show(value)}")
        of_key, of_value = args or (Any, Any)
        return {_convert(k, of_key, f"{where}.{k}"): _convert(v, of_value, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        return from_mapping(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        raise UserError(f"{where}: must be {names.get(hint, hint.__name__)}, got {_show(value)}")
    return value
