"""Settings by the places where they stand: type, range, default and description, from the classes that check them.

Types and ranges come from the annotations that :mod:`sida.config.settings` checks; descriptions come from the section
``Attributes`` of the docstrings, including those of base classes.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from sida.config.families import FAMILIES
from sida.config.lookup import docstring
from sida.config.recipe import (
    METHOD_SETTINGS,
    OFFICIAL,
    AugmentConfig,
    NetworkConfig,
    Recipe,
    RecipeEvaluation,
    TeacherTraining,
)
from sida.config.samplers import Sampler
from sida.config.settings import CheckedAs, OneOf, Variants, type_hints
from sida.eval.claims.rules import RULES, rule_text
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.eval.metrics.kinds import METRIC_KINDS
from sida.eval.metrics.metric import Metric
from sida.eval.results.sheet import SheetRow
from sida.methods.registry import METHODS
from sida.workflow.planning.site import Site
from sida.workflow.preset.settings import DatasetEntry, MadeFrom, PlanSettings, PresetSettings, StoredRows, TeacherEntry


class Setting(NamedTuple):
    """A setting in words.

    Attributes:
        place: Name of the mapping that has the key, of :data:`PLACES`.
        key: Name in files.
        kind: Type with range.
        default: Default value; ``needed`` without one.
        meaning: Description, with `code` in backquotes.
    """

    place: str
    key: str
    kind: str
    default: str
    meaning: str


def _options() -> dict[str, tuple[type, str]]:
    """Options of methods, and the methods that have them, by the name of their place."""
    methods: dict[type, list[str]] = {}
    for method in METHODS.values():
        if dataclasses.fields(method.option_class):
            methods.setdefault(method.option_class, []).append(method.name)
    return {f"{names[0]}-options": (cls, "` or `".join(names)) for cls, names in methods.items()}


#: Classes of settings by place, and where a mapping of each stands.
PLACES: dict[str, tuple[type, str]] = {
    "preset": (PresetSettings, "A preset's file."),
    "sheet": (SheetRow, "Columns of a sample sheet (`runs` of a preset); an empty cell is null."),
    "teacher": (TeacherEntry, "An entry of a preset's `teachers`."),
    "network": (NetworkConfig, "`network` of a teacher, or of a recipe without one."),
    "recipe": (
        Recipe,
        "An entry of a preset's `recipes`. null takes the official value where the key names no other.",
    ),
    "training": (TeacherTraining, "`training` of a teacher."),
    **{place: (cls, f"`options` of a recipe with method `{names}`.") for place, (cls, names) in _options().items()},
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
#: Places of entries that are not fields of one class.
KINDS, RULES_OF_CLAIMS = "metric-kinds", "claim-rules"
ABOUT = {place: about for place, (_, about) in PLACES.items()} | {
    KINDS: "Further keys of a metric of one kind.",
    RULES_OF_CLAIMS: "Functions of `sida.eval.claims` for a study's `claims.py`.",
}


@functools.cache
def all_settings() -> tuple[Setting, ...]:
    """Every setting of :data:`ABOUT`, by place, in the order of its class."""
    links = {cls: f"mapping (`sida settings {place}`)" for place, (cls, _) in PLACES.items()}
    rows = [row for place in PLACES for row in settings_of(place, links)]
    rules = (Setting(RULES_OF_CLAIMS, name, f"`{rule.__name__}`", "", rule_text(name)) for name, rule in RULES.items())
    return (*rows, *kind_settings(), *rules)


def settings_of(place: str, links: Mapping[type, str]) -> list[Setting]:
    """Settings of a class; ``links`` has the words for a mapping of another class."""
    cls, _ = PLACES[place]
    texts, hints = descriptions(cls), type_hints(cls)
    return [
        Setting(place, field.name.rstrip("_"), _words(hints[field.name], links), _default(field), texts[field.name])
        for field in dataclasses.fields(cls)
    ]


def kind_settings() -> Iterator[Setting]:
    """Settings that metric kinds have besides the settings of every metric; kinds with equal ones join."""
    common = {field.name for field in dataclasses.fields(Metric)}
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for name, cls in METRIC_KINDS.items():
        texts = descriptions(cls)
        for field in dataclasses.fields(cls):
            if field.name not in common:
                kinds.setdefault((field.name, _default(field), texts[field.name]), []).append(f"`{name}`")
    for (key, default, meaning), names in kinds.items():
        yield Setting(KINDS, key, f"of {', '.join(names)}", default, meaning)


def official_values(key: str) -> dict[str, str]:
    """Methods with their families of networks, such as ``sid (EDM, EDM2)``, by the official value of a recipe's key."""
    families: dict[str, dict[str, list[str]]] = {}
    for method in METHODS.values():
        if key in METHOD_SETTINGS and key not in method.settings:
            continue
        for family in FAMILIES.values():
            official = OFFICIAL | method.settings_of(family, "") if family.name in method.official else {}
            if official.get(key) is not None:
                of_value = families.setdefault(in_yaml(official[key]), {})
                of_value.setdefault(method.name, []).append(family.title)
    return {value: "; ".join(_by_families(methods)) for value, methods in families.items()}


def _by_families(methods: Mapping[str, Sequence[str]]) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for name, titles in methods.items():
        names.setdefault(", ".join(titles), []).append(name)
    return (f"{', '.join(same)} ({titles})" for titles, same in names.items())


def descriptions(cls: type) -> dict[str, str]:
    """Descriptions of fields as plain text with `code` in backquotes.

    Raises:
        KeyError: A field has no description.
    """
    meanings: dict[str, str] = {}
    for described in (*getattr(cls, "described_by", ()), cls):
        for base in reversed(described.__mro__):
            meanings |= _attributes(docstring(base))
    return {name: meanings[name] for name in type_hints(cls)}


def _attributes(text: str) -> dict[str, str]:
    _, _, section = text.partition("Attributes:\n")
    meanings: dict[str, str] = {}
    for names, words in re.findall(r"^    (\w[\w, ]*): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
        plain = re.sub(r":\w+:`([^`]+)`|``([^`]+)``", r"`\1\2`", " ".join(words.split()))
        meanings |= dict.fromkeys(names.split(", "), plain)
    return meanings


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return "*needed*" if value is dataclasses.MISSING else in_yaml(value)


def in_yaml(value: Any) -> str:
    """A value as files of settings have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


#: Words for simple types.
_SIMPLE = {bool: "true or false", int: "integer", float: "number", str: "text"}


def _words(hint: Any, links: Mapping[type, str]) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        rule = args[1]
        if isinstance(rule, Variants):
            return _words(args[0], links)
        if isinstance(rule, CheckedAs):
            return links.get(rule.cls, "mapping")
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
        return links[typing.cast(type, hint)]
    return _SIMPLE.get(hint, "")
