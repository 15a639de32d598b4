"""Settings: annotations of their types and ranges, and conversion of mappings to frozen dataclasses.

A setting is defined once, as a field of a dataclass: the annotation has its type and range (``lr: Positive``, ``t_max:
Annotated[float, Range(above=0, most=1000)]``), the docstring describes it under ``Attributes``. This module checks
values by the annotations, with one-line errors that name the key; ``tools.write_schemas`` makes schemas,
and ``sida settings`` text, from name, type, default and description.
"""

import copy
import dataclasses
import functools
import json
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from sida.errors import SettingError, UserError, inside, settings_in, suggestion
from sida.files.text_files import number_in, parse_json, parse_yaml, read_text

#: Networks and optimisers compute in float32.
_FLOAT32_MAX = 3.4e38


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
        """Fault of a number, or None."""
        if not math.isfinite(value):
            return "must be a finite number"
        if isinstance(value, float) and abs(value) >= _FLOAT32_MAX:
            return f"must be below {_FLOAT32_MAX:.1e}, the largest number of 32 bits"
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        high = (self.most is None or value <= self.most) and (self.below is None or value < self.below)
        return None if low and high else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A choice of known names, as part of a type.

    Attributes:
        names: Function that lists the names, called whenever a value is checked.
        or_object: Whether ``module:object`` is accepted too.
        missing: Fault and remedy of a name that is known and not here, or None.
    """

    names: Callable[[], Iterable[str]]
    or_object: bool = False
    missing: Callable[[str], tuple[str, str] | None] = lambda name: None

    @property
    def words(self) -> str:
        """The names."""
        return f"one of {', '.join(self.names())}{' or module:object' if self.or_object else ''}"

    def fault(self, value: str) -> str | None:
        """Fault of a text, or None."""
        is_valid = value in self.names() or (self.or_object and names_object(value))
        return None if is_valid else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A regular expression that a text must match, as part of a type, and its description in words."""

    expression: str
    words: str

    def fault(self, value: str) -> str | None:
        """Fault of a text, or None."""
        return None if re.fullmatch(self.expression, value) else f"must be {self.words}"


@dataclasses.dataclass(frozen=True)
class CheckedAs:
    """A mapping checked by a dataclass, but kept as a mapping, as part of a type."""

    cls: type


@dataclasses.dataclass(frozen=True)
class Variants:
    """Choice of a dataclass by a key of the mapping, as part of a type, which is their base class.

    Attributes:
        key: The key.
        classes: Function that lists the classes by the key's value.
        pick: ``pick(value, where)`` returns the class for a value, also for ``module:object``; raises UserError for
            unknown values.
    """

    key: str
    classes: Callable[[], Mapping[str, type]]
    pick: Callable[[str, str], type]


def names_object(text: str) -> bool:
    """Whether a text has the form ``module:object``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), name])


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, most=1)]
#: Integers from 1 (Count), and from 0 (Natural).
Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]
#: Id of a run, teacher or data set, which becomes part of file names.
Name = Annotated[
    str, Pattern("[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}", "letters, digits and ._- after a letter or digit, 100 at most")
]
#: Device of torch.
Device = Annotated[str, Pattern(r"(cpu|cuda(:[0-9]+)?)", "cpu, cuda, or cuda:N (one GPU, counted from 0)")]
#: ``module:object``, imported on use.
ObjectName = Annotated[str, Pattern(r"[^\W\d][\w.]*:[^\W\d]\w*", "a text 'module:object'")]


T = TypeVar("T")
#: Fault of a key that is not given.
MISSING = "is missing"
#: Characters of the longest text whose parsed value is cached.
MAX_CACHED_TEXT = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class of settings whose constructor checks and converts the values, since Python code may call it.

    Raises:
        SettingError: A value is of another type or out of range.
    """

    def __post_init__(self) -> None:
        for field in _fields(type(self)).values():  # type: ignore[arg-type]
            value = getattr(self, field.name)
            # Most settings have their default, which is converted once for the class.
            converted = field.converted if value is field.default else field.convert(value, field.name)
            if converted is not value:
                object.__setattr__(self, field.name, converted)


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Annotations of a class's fields, ranges included."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from a mapping.

    Args:
        cls: A dataclass. Its ``__post_init__`` may raise ``SettingError`` for settings that contradict each other.
        mapping: Values by field name (a field named like a Python keyword ends with ``_``). Integers are accepted for
            floats, lists for tuples.
        where: Place named in errors, e.g. ``"preset.yaml: teachers.digits-30k"``; a colon follows a file name.

    Raises:
        SettingError: Unknown or missing key, wrong type, or a value out of range.
    """
    if not isinstance(mapping, Mapping):
        raise SettingError(where.removesuffix(":"), f"must be a mapping of settings, got {_show(mapping)}")
    fields = _fields(cls)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    # The constructor of Settings checks and converts the values; doing it here too would take twice the time.
    constructed = issubclass(cls, Settings)
    for key, value in mapping.items():
        if key not in fields:
            raise SettingError(inside(where, key), f"unknown key{suggestion(str(key), fields)}")
        field = fields[key]
        values[field.name] = value if constructed else field.convert(value, inside(where, key))
    for key, field in fields.items():
        if field.required and field.name not in values:
            raise SettingError(inside(where, key), MISSING, "add it")
    with settings_in(where):
        return cls(**values)


def from_texts(cls: type[T], texts: Mapping[str, str], where: str) -> T:
    """As :func:`from_mapping` for texts, such as the cells of a row; where a field can be a number, so can its text."""
    hints, values = type_hints(cls), dict[str, Any](texts)  # type: ignore[arg-type]
    for key, text in texts.items():
        for kind in (float, int):
            if kind in _parts(hints.get(key)) and (number := number_in(text, kind)) is not None:
                values[key] = number
    return from_mapping(cls, values, where)


@functools.cache
def _parts(hint: Any) -> set[Any]:
    return {hint}.union(*map(_parts, typing.get_args(hint)))


def load_spec(text: str, where: str = "--spec") -> dict[str, Any]:
    """Reads a spec given as JSON text (starts with ``{``) or as the path of a JSON file (``.json``) or YAML file.

    Raises:
        UserError: The file is missing, or the text is not a mapping.
    """
    if not text.lstrip().startswith("{"):
        path = Path(text)
        where = str(path)
        if not os.path.isfile(path):
            raise UserError(where, "no such file", "give JSON text or the path of a JSON or YAML file")
        if path.suffix != ".json":
            return load_yaml(path)
        text = read_text(path)
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise UserError(where, f"must be a mapping, got {_show(value)}")
    return value


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        UserError: The file is missing or not UTF-8, :func:`~sida.files.text_files.parse_yaml` refuses it, or the
            document is not a mapping.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise UserError(path, "no such file")
    text = read_text(path)
    value = copy.deepcopy(_parsed(text, str(path))) if len(text) < MAX_CACHED_TEXT else parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(path, f"must be a mapping of settings, got {_show(value)}")
    return value


@functools.lru_cache(64)
def _parsed(text: str, where: str) -> Any:
    """Parsed YAML; cached, since a plan reads the same layouts many times and copying is far faster than parsing."""
    return parse_yaml(text, where)


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


#: Converts a value to a type; the text names the file and key in errors.
_Converter = Callable[[Any, str], Any]
_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class _Field:
    """A field of a class of settings, with its compiled type.

    Attributes:
        name: Name of the attribute.
        convert: Checks a value and returns it in the field's type.
        required: Whether a mapping must give it.
        default: Its default; without one a new object, which is not identical to any value.
        converted: Its default in the field's type.
    """

    name: str
    convert: _Converter
    required: bool
    default: Any
    converted: Any


@functools.cache
def _fields(cls: type) -> dict[str, _Field]:
    """Compiled fields of a class by their keys in mappings."""
    compiled = {}
    for field in dataclasses.fields(cls):
        convert, default = _converter(type_hints(cls)[field.name]), field.default
        required = default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        try:
            converted = convert(default, field.name)
        except UserError:
            # There is no default, or this class narrows the type that a base class's default has.
            default = converted = object()
        compiled[field.name.rstrip("_")] = _Field(field.name, convert, required, default, converted)
    return compiled


def _converter(hint: Any) -> _Converter:
    """Compiles a type hint (scalars, unions, tuples, mappings, dataclasses) once for all values of a field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value, where: value
    if origin is Annotated:
        return _annotated(args[0], args[1:])
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return _literal(args)
    if origin is tuple:
        return _tuple(args)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return _mapping(*(args or (Any, Any)))
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        return lambda value, where: value if isinstance(value, cls) else from_mapping(cls, value, where)
    return _scalar(hint)


def _annotated(base: Any, rules: tuple[Any, ...]) -> _Converter:
    if isinstance(rules[0], Variants):
        return _variants(base, rules[0])
    inner = _converter(base)

    def convert(value: Any, where: str) -> Any:
        converted = inner(value, where)
        for rule in rules:
            if isinstance(rule, CheckedAs):
                from_mapping(rule.cls, converted, where)
            elif (fault := rule.fault(converted)) is not None:
                if isinstance(rule, OneOf) and (missing := rule.missing(converted)):
                    raise SettingError(where, *missing)
                raise SettingError(where, f"{fault}, got {_show(value)}")
        return converted

    return convert


def _variants(base: type, variants: Variants) -> _Converter:
    """Builds the dataclass that a key of the mapping selects."""
    key, plain = variants.key, _converter(base)

    def convert(value: Any, where: str) -> Any:
        if isinstance(value, base) or not isinstance(value, Mapping):
            return plain(value, where)
        full_key = inside(where, key)
        if key not in value:
            raise SettingError(full_key, MISSING, "add it")
        try:
            cls = variants.pick(str(value[key]), full_key)
        except UserError as error:
            if error.where != full_key:
                raise
            # To a SettingError the enclosing settings add file and outer keys.
            raise SettingError(full_key, error.fault, error.remedy) from None
        return from_mapping(cls, value, where)

    return convert


def _union(args: tuple[Any, ...]) -> _Converter:
    optional = type(None) in args
    *others, last = [_converter(option) for option in args if option is not type(None)]

    def convert(value: Any, where: str) -> Any:
        if value is None and optional:
            return None
        for option in others:
            try:
                return option(value, where)
            except UserError:
                continue
        # No option fits: the error describes the last one.
        return last(value, where)

    return convert


def _literal(args: tuple[Any, ...]) -> _Converter:
    def convert(value: Any, where: str) -> Any:
        if value not in args:
            raise SettingError(where, f"must be one of {', '.join(map(str, args))}, got {_show(value)}")
        return value

    return convert


def _tuple(args: tuple[Any, ...]) -> _Converter:
    any_length = len(args) == 2 and args[1] is Ellipsis
    inner = [_converter(arg) for arg in args if arg is not Ellipsis]

    def convert(value: Any, where: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise SettingError(where, f"must be a list, got {_show(value)}")
        converters = inner * len(value) if any_length else inner
        if len(converters) != len(value):
            raise SettingError(where, f"must have {len(converters)} entries, got {len(value)}")
        return tuple(entry(item, f"{where}[{index}]") for index, (item, entry) in enumerate(zip(value, converters)))

    return convert


def _mapping(key_hint: Any, value_hint: Any) -> _Converter:
    convert_key, convert_value = _converter(key_hint), _converter(value_hint)

    def convert(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise SettingError(where, f"must be a mapping, got {_show(value)}")
        names = {key: f"{where}.{key}" for key in value}
        return {convert_key(key, names[key]): convert_value(item, names[key]) for key, item in value.items()}

    return convert


def _scalar(hint: Any) -> _Converter:
    number = hint in (int, float)

    def convert(value: Any, where: str) -> Any:
        if number and isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise SettingError(where, f"must be an integer of at most 64 bits, got one of {value.bit_length()}")
        # bool is a subclass of int, but true is not a number in a settings file.
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if hint is float and isinstance(value, float) and math.isnan(value):
            raise SettingError(where, f"must be a finite number, got {_show(value)}")
        if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
            raise SettingError(where, f"must be {_NAMES.get(hint, hint.__name__)}, got {_show(value)}")
        return value

    return convert
