"""Registries: objects by name, of the core and of plugins.

A plugin is a folder of ``plugins/`` (in a wheel: of ``sida/plugins``), one for each feature that the core can do
without. Its file ``plugin.toml`` has a table for each registry to which it adds names, each with a module of the folder
and an object in it:

    [methods]
    dmd = "dmd:DMD"

A verb of the command line has a table of its own, so that `sida --help` lists it without its code:

    [verbs.board]
    object = "board:BOARD"
    group = "papers and studies"
    help = "Check sent rows."

A plugin whose code imports another plugin names it: ``uses = ["judges"]``, above the tables. Reading the file imports
no code. A plugin is removed with its folder; ``config/plugins.tsv`` lists the names of this repository's plugins, so
that an error can say which plugin is missing.
"""

import contextlib
import csv
import functools
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from sida.config.lookup import PLUGINS, ROOT, load_object, our_object
from sida.config.settings import Pattern, from_mapping, names_object
from sida.errors import SettingError, UserError, suggestion
from sida.files.text_files import read_text

#: Package of the plugins, which in a checkout is a link to the folder ``plugins`` at the root.
PACKAGE = "sida.plugins"
FOLDER = PLUGINS
#: File of a plugin that names its objects, and the file with the names of all plugins.
TABLES, INDEX = "plugin.toml", ROOT / "config" / "plugins.tsv"
#: Tables of a plugin, by the registries to which they add names.
REGISTRIES = (
    *("methods", "families", "networks", "samplers", "drawings", "verbs", "hub_folders", "readers", "preset_writers"),
    "network_folders",
    *("feature_networks", "extractors", "backbones", "metrics", "kernels"),
)
_OBJECT = Pattern(r"[a-z_][\w.]*:\w+", "'module:object'")


@dataclass(frozen=True, kw_only=True)
class Addition:
    """An object that a plugin adds to a registry.

    Attributes:
        object: ``module:object``; in the file of the plugin, the module is one of its folder.
    """

    object: Annotated[str, _OBJECT]


@dataclass(frozen=True, kw_only=True)
class ListedVerb(Addition):
    """A verb of the command line as the help lists it, without its code.

    Attributes:
        group: Heading above it in the help; empty for verbs of jobs, which are not listed.
        help: Its line in the help.
    """

    group: str
    help: str


@functools.cache
def plugins() -> Mapping[str, Mapping[str, Mapping[str, Addition]]]:
    """Tables of each plugin by the name of its folder, sorted; without plugins that use one which is not here.

    Raises:
        UserError: A file is not TOML, or a table is not one of :data:`REGISTRIES` or does not name objects.
    """
    files = {path.parent.name: _read_tables(path) for path in sorted(FOLDER.glob(f"*/{TABLES}"))}
    uses = {name: {*tables.pop("uses", [])} for name, tables in files.items()}
    return {name: tables for name, tables in files.items() if uses[name] <= files.keys()}


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(path, f"cannot be read ({error})", "correct it") from None
    if not isinstance(uses := tables.get("uses", []), list) or not all(isinstance(name, str) for name in uses):
        raise UserError(path, f"uses: must be a list of plugins' names, got {uses!r:.80}", "correct it")
    for registry, objects in tables.items():
        if registry == "uses":
            continue
        if registry not in REGISTRIES:
            raise UserError(path, f"no registry '{registry}'{suggestion(registry, REGISTRIES)}")
        if not isinstance(objects, dict):
            raise UserError(path, f"{registry}: must be a table, got {objects!r}", "correct it")
        for name, value in objects.items():
            where = f"{path}: {registry}.{name}"
            is_verb = registry == "verbs"
            objects[name] = from_mapping(ListedVerb, value, where) if is_verb else _addition(value, where)
    return tables


def _addition(place: object, where: str) -> Addition:
    with contextlib.suppress(SettingError):
        return from_mapping(Addition, {"object": place}, where)
    raise UserError(where, f"must be 'module:object', got {place!r}", "correct it")


def additions(registry: str, core: Container[str] = ()) -> dict[str, Addition]:
    """What plugins add to a registry, by name; imports nothing.

    Args:
        registry: One of :data:`REGISTRIES`; another has no additions.
        core: Names that the core has.

    Raises:
        UserError: As of :func:`plugins`, or a name is one of the core or of two plugins.
    """
    added: dict[str, Addition] = {}
    for plugin, tables in plugins().items():
        for name, addition in tables.get(registry, {}).items():
            if name in core or name in added:
                owner = "the core" if name in core else "another plugin"
                raise UserError(FOLDER / plugin / TABLES, f"{registry}.{name}: {owner} has it", "rename it")
            added[name] = replace(addition, object=f"{PACKAGE}.{plugin}.{addition.object}")
    return added


def added_verbs(core: Container[str] = ()) -> dict[str, ListedVerb]:
    """Verbs of plugins by name; see :func:`additions`."""
    return cast(dict[str, ListedVerb], additions("verbs", core))


@functools.cache
def missing_plugins(registry: str) -> Mapping[str, str]:
    """Names that plugins of this repository have and that are not here, each with its plugin.

    Args:
        registry: One of :data:`REGISTRIES`, or a kind of :func:`sida.config.named_files.find_file`.
    """
    with open(INDEX, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["plugin"] not in plugins()]
    return {row["name"]: row["plugin"] for row in rows if row["registry"] == registry}


def missing_object(noun: str, registry: str, name: str) -> tuple[str, str] | None:
    """Fault and remedy of a name that a plugin adds which is not here; None for any other name."""
    plugin = missing_plugins(registry).get(name)
    if plugin is None:
        return None
    fault = f"{noun} '{name}' is in the plugin {plugin}, which is not here"
    if (FOLDER / plugin).is_dir():
        fault = f"{noun} '{name}' is in the plugin {plugin}, which uses another plugin that is not here"
    return fault, "put its folder back (git checkout plugins)"


def refuse_missing(noun: str, registry: str, name: str, where: str) -> None:
    """Refuses a name of a plugin that is not here.

    Raises:
        UserError: :func:`missing_object` has a fault.
    """
    if missing := missing_object(noun, registry, name):
        raise UserError(where, *missing)


T = TypeVar("T")


@dataclass(frozen=True)
class RegistryEntry:
    """An object that is imported when it is used, so that commands that need only its name do not import torch.

    Attributes:
        made_by: ``module:object`` of this package.
    """

    made_by: str

    def load(self) -> Any:
        """Imports the object."""
        return our_object(self.made_by)


class Registry(dict[str, T]):
    """Objects by name, in the order in which help and documents list them.

    Args:
        noun: Word for one object, in errors and help.
        base: ``module:class`` of which a custom object must be an instance or a subclass; empty: any object.
        entries: The objects of the core; an :class:`RegistryEntry` stands for the object that it imports.
        table: Table of the plugins that adds further objects, which are imported now; empty: none does.
    """

    def __init__(self, noun: str, base: str, entries: Mapping[str, T], table: str = "") -> None:
        super().__init__(entries)
        self.noun, self.base, self.table = noun, base, table
        for name, addition in additions(table, self).items():
            self[name] = our_object(addition.object)

    def knows(self, name: object) -> bool:
        """Whether a name is registered or has the form ``module:object``; imports nothing."""
        return isinstance(name, str) and (name in self or names_object(name))

    def missing(self, name: str) -> tuple[str, str] | None:
        """Fault and remedy of a name that a plugin adds which is not here; None for any other name."""
        return missing_object(self.noun, self.table, name)

    def check(self, name: object, where: str) -> str:
        """Returns the name if it is known.

        Raises:
            UserError: It is neither registered nor the name of a custom object.
        """
        if not self.knows(name):
            refuse_missing(self.noun, self.table, str(name), where)
            remedy = f"or name a custom {self.noun} as module:object"
            raise UserError(where, f"no {self.noun} '{name}'{suggestion(str(name), self)}", remedy)
        return cast(str, name)

    def find(self, name: object, where: str) -> Any:
        """Returns the object of a name; a custom object is imported with the user's permission.

        Raises:
            UserError: It does not exist, has no permission (:mod:`sida.config.lookup`), or is of another kind.
        """
        name = self.check(name, where)
        if name in self:
            entry = self[name]
            return entry.load() if isinstance(entry, RegistryEntry) else entry
        custom = load_object(name, where, self.noun)[1]
        if self.base:
            base = our_object(self.base)
            if not (isinstance(custom, base) or (isinstance(custom, type) and issubclass(custom, base))):
                class_name = self.base.replace(":", ".")
                fault = f"'{name}' is neither an instance nor a subclass of {class_name}"
                raise UserError(where, fault, "derive it from that class")
        return custom
