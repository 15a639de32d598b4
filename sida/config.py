"""Strict configuration: mappings become frozen dataclasses or one-line errors that name the key."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sida.errors import UserError, suggestion

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from a mapping.

    Args:
        cls: A dataclass. Its ``__post_init__`` may raise ``ValueError("key: what is wrong")`` for ranges.
        mapping: Keys are field names. Integers are accepted for floats, lists for tuples.
        where: Place named in errors, e.g. ``"config/demo.yaml: teachers.digits-30k"``.

    Raises:
        UserError: Unknown or missing key, wrong type, or a value out of range.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: must be a mapping of settings, got {_show(mapping)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}'{suggestion(str(key), fields)}")
        values[key] = _convert(value, hints[key], f"{where}.{key}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UserError(f"{where}: key '{name}' is missing; add it")
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None


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
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        raise UserError(f"{where}: must be {names.get(hint, hint.__name__)}, got {_show(value)}")
    return value
