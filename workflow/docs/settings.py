"""Tables of settings for the documentation, and the JSON schemas that editors read.

Documents classes of settings: descriptions, JSON schemas for editors, tables for the documentation.

Types and ranges come from the annotations that :mod:`sida.config.settings` checks; descriptions come from the section
``Attributes`` of the docstrings, including those of base classes.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from eval.claims.experiments import Experiment, Experiments
from eval.measuring.kinds import METRIC_KINDS
from eval.measuring.metric import Metric
from eval.measuring.protocol import Protocol, ReferenceSource
from eval.results.analyses import AnalysisEntry
from eval.results.exchange import ExchangedMetric
from eval.results.sheet import SheetRow
from sida.config.augmentation import AugmentConfig, AugmentFlags
from sida.config.datasets import DatasetEntry, MadeFrom
from sida.config.recipe import NetworkConfig, Recipe, RecipeEvaluation, TeacherTraining
from sida.config.samplers import Sampler
from sida.config.settings import CheckedAs, OneOf, Pattern, Variants, type_hints
from sida.errors import UserError, suggestion
from sida.methods.registry import METHODS
from workflow.docs.words import block
from workflow.planning.requests import Site
from workflow.preset.files import PresetSettings, TeacherEntry

_SIMPLE = {
    bool: ("boolean", "true or false"),
    int: ("integer", "integer"),
    float: ("number", "number"),
    str: ("string", "text"),
}
#: Schema of ``module:object``.
_OBJECT = {"pattern": ":"}


def descriptions(cls: type) -> dict[str, str]:
    """Descriptions of fields as plain text with `code` in backquotes.

    Raises:
        KeyError: A field has no description.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _attributes(base.__dict__.get("__doc__") or "")
    return {name: found[name] for name in type_hints(cls)}


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    found: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
        plain = re.sub(r":\w+:`([^`]+)`|``([^`]+)``", r"`\1\2`", " ".join(text.split()))
        found |= dict.fromkeys(names.split(", "), plain)
    return found


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
    return {"type": _SIMPLE[hint][0]} if hint in _SIMPLE else {}


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


def settings_table(cls: type, links: Mapping[type, str]) -> str:
    """Markdown table of a class of settings: key, type with range, default, meaning.

    Args:
        cls: A class of settings.
        links: Addresses of the tables of other classes.
    """
    texts, hints = descriptions(cls), type_hints(cls)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        kind = _words(hints[field.name], links)
        cells = (f"`{field.name.rstrip('_')}`", kind, _default(field), texts[field.name])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "*needed*"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _words(hint: Any, links: Mapping[type, str]) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        rule = args[1]
        if isinstance(rule, Variants):
            return _words(args[0], links)
        if isinstance(rule, CheckedAs):
            return f"[mapping]({links[rule.cls]})" if rule.cls in links else "mapping"
        if isinstance(rule, OneOf):
            return rule.words
        return ", ".join(filter(None, [_words(args[0], links), rule.words]))
    if origin in (typing.Union, types.UnionType):
        return "; or ".join("null" if option is type(None) else _words(option, links) for option in args)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        return f"list of {'' if args[1] is Ellipsis else f'{len(args)} × '}{_words(args[0], links)}"
    if origin is dict:
        inner = _words(args[1], links)
        return f"mapping by name: {inner}" if inner else "mapping"
    if dataclasses.is_dataclass(hint):
        return f"[mapping]({links[typing.cast(type, hint)]})"
    return _SIMPLE[hint][1] if hint in _SIMPLE else ""


def _options() -> dict[str, tuple[type, str]]:
    """Options of methods, and the methods that have them, by the anchor of their table."""
    methods: dict[type, list[str]] = {}
    for method in METHODS.values():
        if method.options is not None:
            methods.setdefault(method.options, []).append(method.name)
    return {f"{names[0]}-options": (cls, "` or `".join(names)) for cls, names in methods.items()}


#: Classes of settings by the anchor of their table in docs/settings.md.
SETTINGS: dict[str, type] = {
    "preset": PresetSettings,
    "sheet": SheetRow,
    "experiment": Experiment,
    "teacher": TeacherEntry,
    "network": NetworkConfig,
    "training": TeacherTraining,
    "recipe": Recipe,
    **{anchor: cls for anchor, (cls, _) in _options().items()},
    "evaluation": RecipeEvaluation,
    "analysis": AnalysisEntry,
    "augment": AugmentConfig,
    "flags": AugmentFlags,
    "dataset": DatasetEntry,
    "made-from": MadeFrom,
    "sampler": Sampler,
    "protocol": Protocol,
    "metric": Metric,
    "reference": ReferenceSource,
    "site": Site,
}
#: Settings with schemas for editors: ``# yaml-language-server: $schema=...``; and exchanged numbers.
SCHEMAS = {"preset": PresetSettings, "protocol": Protocol, "experiments": Experiments, "measurement": ExchangedMetric}


def settings(name: str) -> str:
    """Table of a class of settings, by its name in :data:`SETTINGS`."""
    if name not in SETTINGS:
        raise UserError("", f"no settings '{name}'{suggestion(name, SETTINGS)}")
    return f"\n\n{settings_table(SETTINGS[name], {cls: f'#{word}' for word, cls in SETTINGS.items()})}\n\n"


def method_options() -> str:
    """A section with the table of each class of options."""
    sections = [
        f"## {name}\n`options` of a recipe with method `{methods}`.{settings(name)}"
        for name, (_, methods) in _options().items()
    ]
    return "\n\n" + "".join(sections)


def kinds() -> str:
    """Table of metric kinds with their inputs, and their settings with defaults."""
    common = {field.name for field in dataclasses.fields(Metric)}
    lines = ["| kind | what | reference | keeps features | better | its own settings |", "|---|---|---|---|---|---|"]
    for name, cls in METRIC_KINDS.items():
        texts = descriptions(cls)
        own = [f"`{f.name}` ({_default(f)}): {texts[f.name]}" for f in dataclasses.fields(cls) if f.name not in common]
        what = str(cls.__doc__).partition("\n")[0].rstrip(".")
        needs = ("yes" if flag else "" for flag in (cls.real is not None, cls.generated == "features"))
        lines.append(f"| `{name}` | {' | '.join([what, *needs, cls.better, ' '.join(own)])} |")
    return block(lines)


def schemas(root: Path) -> dict[Path, str]:
    """Content of the files in ``workflow/schemas``."""
    found = {name: json_schema(cls) for name, cls in SCHEMAS.items()}
    protocol = found["protocol"]
    protocol["properties"]["extends"] = {
        "type": "string",
        "description": "Protocol in this folder with the other keys.",
    }
    protocol["anyOf"] = [{"required": keys} for keys in (protocol.pop("required"), ["extends"])]
    folder = root / "workflow" / "schemas"
    return {folder / f"{name}.schema.json": json.dumps(schema, indent=1) + "\n" for name, schema in found.items()}
