"""Writes docs/settings.md and the JSON schemas of workflow/schemas from the classes of settings.

    python -m tools.settings_page

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from eval.claims.rules import RULES, rule_text
from eval.measuring.protocol import Protocol, ReferenceSource
from eval.metrics.kinds import METRIC_KINDS
from eval.metrics.metric import Metric
from eval.results.exchange import ExchangedMetric
from eval.results.sheet import SheetRow
from sida.config.lookup import ROOT
from sida.config.recipe import AugmentConfig, NetworkConfig, Recipe, RecipeEvaluation, TeacherTraining
from sida.config.samplers import Sampler
from sida.config.settings import CheckedAs, OneOf, Pattern, Variants, type_hints
from sida.files.atomic import write_text
from sida.methods.registry import METHODS
from workflow.planning.site import Site
from workflow.preset.settings import DatasetEntry, MadeFrom, PlanSettings, PresetSettings, StoredRows, TeacherEntry

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
    meanings: dict[str, str] = {}
    for described in (*getattr(cls, "described_by", ()), cls):
        for base in reversed(described.__mro__):
            meanings |= _attributes(base.__dict__.get("__doc__") or "")
    return {name: meanings[name] for name in type_hints(cls)}


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    meanings: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
        plain = re.sub(r":\w+:`([^`]+)`|``([^`]+)``", r"`\1\2`", " ".join(text.split()))
        meanings |= dict.fromkeys(names.split(", "), plain)
    return meanings


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


#: Cells of a row of a table: key, type with range, default, meaning.
Cells = tuple[str, str, str, str]
#: Longest meaning, in words, that a table repeats.
_SHORT = 4


def settings_rows(cls: type, links: Mapping[type, str]) -> list[Cells]:
    """Rows of a class of settings; ``links`` has addresses of the tables of other classes."""
    texts, hints, rows = descriptions(cls), type_hints(cls), list[Cells]()
    for field in dataclasses.fields(cls):
        kind, default = _words(hints[field.name], links), _default(field)
        # The page states once that such a key takes null.
        kind = kind.removesuffix("; or null") if default == "null" else kind
        rows.append((f"`{field.name.rstrip('_')}`", kind, default, texts[field.name]))
    return rows


def settings_table(rows: Sequence[Cells], earlier: Mapping[Cells, str]) -> str:
    """Markdown table of rows, without repetition.

    Keys that an earlier table has are named in a sentence below, with their default where it differs; a long meaning
    that stands above in this table is a reference.

    Args:
        rows: Rows of a class of settings.
        earlier: Anchor of the first table with each row.
    """
    told = {(key, kind, meaning): anchor for (key, kind, _, meaning), anchor in earlier.items()}
    equal: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    lines = []
    for row in rows:
        key, kind, default, meaning = row
        if row in earlier:
            equal.setdefault(f"Equal to [{earlier[row]}](#{earlier[row]})", []).append(key)
        elif anchor := told.get((key, kind, meaning)):
            equal.setdefault(f"As in [{anchor}](#{anchor}), with other defaults", []).append(f"{key} {default}")
        else:
            words = f"as {first[meaning]}" if meaning in first and len(meaning.split()) > _SHORT else meaning
            first.setdefault(meaning, key)
            cells = (key, kind, default, words)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    sentences = [f"{title}: {', '.join(keys)}." for title, keys in equal.items()]
    heads = ["| key | type | default | meaning |", "|---|---|---|---|"] if lines else []
    return "\n\n".join(["\n".join([*heads, *lines]), *sentences]).lstrip()


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
        if dataclasses.fields(method.option_class):
            methods.setdefault(method.option_class, []).append(method.name)
    return {f"{names[0]}-options": (cls, "` or `".join(names)) for cls, names in methods.items()}


#: Classes of settings by the anchor of their table in docs/settings.md, and where a mapping of each stands.
SETTINGS: dict[str, tuple[type, str]] = {
    "preset": (PresetSettings, "A preset's file."),
    "sheet": (SheetRow, "Columns of a sample sheet (`runs` of a preset); an empty cell is null."),
    "teacher": (TeacherEntry, "An entry of a preset's `teachers`."),
    "network": (NetworkConfig, "`network` of a teacher, or of a recipe without one."),
    "recipe": (
        Recipe,
        "An entry of a preset's `recipes`. null takes the [official value](differences.md#defaults-of-a-recipe) "
        "where the key names no other.",
    ),
    "training": (TeacherTraining, "`training` of a teacher."),
    **{anchor: (cls, f"`options` of a recipe with method `{names}`.") for anchor, (cls, names) in _options().items()},
    "evaluation": (RecipeEvaluation, "`evaluation` of a recipe."),
    "augment": (AugmentConfig, "`augment` of a training or recipe."),
    "stored": (StoredRows, "`stored` of a preset."),
    "plan": (PlanSettings, "`plan` of a preset."),
    "dataset": (DatasetEntry, "An entry of `datasets`, in `config/datasets.yaml` or a preset."),
    "made-from": (MadeFrom, "`made_from` of a data set."),
    "sampler": (Sampler, "An entry of a preset's `samplers`."),
    "protocol": (Protocol, "A file of `config/protocols/`."),
    "metric": (Metric, "An entry of a protocol's `metrics`; some kinds have further keys."),
    "reference": (ReferenceSource, "An entry of a protocol's `references`."),
    "site": (Site, "`profiles/site.yaml`."),
}
#: Settings with schemas for editors: ``# yaml-language-server: $schema=...``; and exchanged numbers.
SCHEMAS = {"preset": PresetSettings, "protocol": Protocol, "measurement": ExchangedMetric}


def page() -> str:
    """Content of docs/settings.md."""
    links = {cls: f"#{anchor}" for anchor, (cls, _) in SETTINGS.items()}
    parts = [
        "# Settings",
        "Every key of a preset and of the files that it names, written from the classes that check the keys "
        "(`python -m tools.settings_page`). A key whose default is null takes null, too. "
        "A line `# yaml-language-server: $schema=../workflow/schemas/preset.schema.json` at the top of a file lets an "
        "editor check and complete it.",
    ]
    earlier: dict[Cells, str] = {}
    for anchor, (cls, about) in SETTINGS.items():
        rows = settings_rows(cls, links)
        parts += [f"## {anchor}", about, settings_table(rows, earlier)]
        earlier = dict.fromkeys(rows, anchor) | earlier
    parts += ["## metric kinds", "\n".join(_of_kinds())]
    rules = (f"- `{name}` (`{rule.__name__}`): {rule_text(name)}" for name, rule in RULES.items())
    return (
        "\n\n".join([*parts, "## claim rules", "Functions of `eval.claims` ([add](add.md)).", "\n".join(rules)]) + "\n"
    )


def _of_kinds() -> Iterator[str]:
    """Table of the settings that metric kinds have besides the settings of every metric; kinds with equal ones join."""
    common = {field.name for field in dataclasses.fields(Metric)}
    kinds: dict[str, list[str]] = {}
    for name, cls in METRIC_KINDS.items():
        texts = descriptions(cls)
        for field in dataclasses.fields(cls):
            if field.name not in common:
                kinds.setdefault(f"`{field.name}` | {_default(field)} | {texts[field.name]}", []).append(f"`{name}`")
    yield from ("| kind | key | default | meaning |", "|---|---|---|---|")
    yield from (f"| {', '.join(names)} | {cells} |" for cells, names in kinds.items())


def written(root: Path = ROOT) -> dict[Path, str]:
    """Content of docs/settings.md and of the files in ``workflow/schemas``, by their paths."""
    schemas = {name: json_schema(cls) for name, cls in SCHEMAS.items()}
    protocol = schemas["protocol"]
    protocol["properties"]["extends"] = {
        "type": "string",
        "description": "Protocol in this folder with the other keys.",
    }
    protocol["anyOf"] = [{"required": keys} for keys in (protocol.pop("required"), ["extends"])]
    folder = root / "workflow" / "schemas"
    texts = {folder / f"{name}.schema.json": json.dumps(schema, indent=1) + "\n" for name, schema in schemas.items()}
    return {root / "docs/settings.md": page(), **texts}


if __name__ == "__main__":
    for path, text in written().items():
        write_text(path, text)
        print(path)
