"""Writes the JSON schemas of workflow/schemas from the classes of settings.

python -m tools.write_schemas
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from sida.config.lookup import ROOT
from sida.config.settings import CheckedAs, OneOf, Pattern, Variants, type_hints
from sida.eval.measuring.protocol import Protocol
from sida.eval.results.exchange import ExchangedMetric
from sida.files.atomic import write_text
from sida.workflow.preset.settings import PresetSettings
from sida.workflow.settings import descriptions

_SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string"}
#: Schema of ``module:object``.
_OBJECT = {"pattern": ":"}


def json_schema(cls: type) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the mappings that a class of settings accepts."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_object(cls)}


def _object(cls: type) -> dict[str, Any]:
    texts, hints = descriptions(cls), type_hints(cls)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(cls):
        key = field.name.rstrip("_")
        properties[key] = _schema(hints[field.name]) | {"description": texts[field.name]}
        if field.default is not dataclasses.MISSING:
            properties[key]["default"] = field.default
        elif field.default_factory is dataclasses.MISSING:
            required.append(key)
    title = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
    return {
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def _schema(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if isinstance(args[1], Variants):
            return {"anyOf": [*_variants(args[1]), {"required": [args[1].key], "properties": {args[1].key: _OBJECT}}]}
        base = _schema(args[0])
        for rule in args[1:]:
            base |= _rule(rule)
        return base
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if option is type(None) else _schema(option) for option in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        if args[1] is Ellipsis:
            return {"type": "array", "items": _schema(args[0])}
        return {"type": "array", "items": _schema(args[0]), "minItems": len(args), "maxItems": len(args)}
    if origin is dict:
        return {"type": "object", "propertyNames": _schema(args[0]), "additionalProperties": _schema(args[1])}
    if dataclasses.is_dataclass(hint):
        return _object(typing.cast(type, hint))
    return {"type": _SIMPLE[hint]} if hint in _SIMPLE else {}


def _variants(rule: Variants) -> Iterator[dict[str, Any]]:
    for name, cls in rule.classes().items():
        schema = _object(cls)
        schema["properties"][rule.key] |= {"const": name}
        yield schema


def _rule(rule: Any) -> dict[str, Any]:
    if isinstance(rule, CheckedAs):
        return _object(rule.cls)
    if isinstance(rule, Pattern):
        return {"pattern": f"^{rule.expression}$"}
    if isinstance(rule, OneOf):
        names = {"enum": list(rule.names())}
        return {"anyOf": [names, _OBJECT]} if rule.or_object else names
    words = {
        "minimum": rule.least,
        "exclusiveMinimum": rule.above,
        "maximum": rule.most,
        "exclusiveMaximum": rule.below,
    }
    return {word: bound for word, bound in words.items() if bound is not None}


#: Settings with schemas for editors: ``# yaml-language-server: $schema=...``; and exchanged numbers.
SCHEMAS = {"preset": PresetSettings, "protocol": Protocol, "measurement": ExchangedMetric}


def written(root: Path = ROOT) -> dict[Path, str]:
    """Content of the files in ``workflow/schemas``, by their paths."""
    schemas = {name: json_schema(cls) for name, cls in SCHEMAS.items()}
    protocol = schemas["protocol"]
    protocol["properties"]["extends"] = {
        "type": "string",
        "description": "Protocol in this folder with the other keys.",
    }
    protocol["anyOf"] = [{"required": keys} for keys in (protocol.pop("required"), ["extends"])]
    folder = root / "workflow" / "schemas"
    return {folder / f"{name}.schema.json": json.dumps(schema, indent=1) + "\n" for name, schema in schemas.items()}


if __name__ == "__main__":
    for path, text in written().items():
        write_text(path, text)
        print(path)
