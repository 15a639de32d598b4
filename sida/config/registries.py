"""Registries: objects by name, of the core and of plugins.

A plugin is a folder of ``plugins/`` (in a wheel: of ``sida/plugins``), one for each feature that the core can do
without. Its file ``plugin.toml`` has a table for each registry to which it adds names, each with a module of the folder
and an object in it; ``config/core.toml`` has the core's, with modules of ``sida``:

    [methods]
    dmd = "dmd:DMD"

A verb of the command line, an extractor and a backbone of GDD have a table of their own, with facts that are known
without its code (:data:`FACTS`):

    [verbs.board]
    object = "board:BOARD"
    group = "papers and studies"
    help = "Check sent rows."

A plugin whose code imports another plugin names it: ``uses = ["judges"]``, above the tables. Reading the files imports
no code. A plugin is removed with its folder; ``config/plugins.tsv`` lists the names of this repository's plugins, so
that an error can say which plugin is missing.
"""

import csv
import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from sida.config.lookup import PLUGINS, ROOT, load_object, our_object
from sida.config.settings import Pattern, from_mapping, names_object
from sida.errors import UserError, suggestion
from sida.files.text_files import read_text

#: Package of the plugins, which in a checkout is a link to the folder ``plugins`` at the root.
PACKAGE = "sida.plugins"
FOLDER = PLUGINS
#: File of a plugin that names its objects, the core's, and the file with the names of all plugins.
TABLES, CORE, INDEX = "plugin.toml", ROOT / "config" / "core.toml", ROOT / "config" / "plugins.tsv"
_OBJECT = Pattern(r"[a-z_][\w.]*:\w+", "'module:object'")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object that is imported when it is used, so that commands that need only its name do not import torch.

    Attributes:
        object: ``module:object``; in the files, without the package.
    """

    object: Annotated[str, _OBJECT]

    def load(self) -> Any:
        """Imports the object."""
        return our_object(self.object)


@dataclass(frozen=True, kw_only=True)
class ListedVerb(Entry):
    """A verb of the command line as the help lists it, without its code.

    Attributes:
        group: Heading above it in the help; empty for verbs of jobs, which are not listed.
        help: Its line in the help.
    """

    group: str
    help: str


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network by whose features generators are measured or trained, here or by papers.

    Attributes:
        labels: Data set whose labels it learned; networks with equal labels count as alike. Empty: no other network
            learned its labels. None: the pixels themselves, without a network.
        also: Names of metrics and losses that mean the network in a row's exposure and begin otherwise.
        paper_metrics: Metrics of papers that are computed from its features.
    """

    labels: str | None = None
    also: tuple[str, ...] = ()
    paper_metrics: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExtractorEntry(Entry):
    """An extractor of features for metrics: a network with one way to prepare its input.

    Its name begins with the name of the network.

    Attributes:
        assets: Ids of its downloads in ``config/assets.tsv``; empty for weights of a package.
        classes: Number of its class probabilities; None: unknown.
        gflop: Operations for one picture in float32, in GFLOP, for plans; 0: negligible or not counted.
        varies: Extractor of which this one is a faster variant for processors. The two differ by rounding, as two
            devices do.
        difference: Text that the digest of such a variant has besides the digest of the network's file.
    """

    assets: tuple[str, ...] = ()
    classes: int | None = 0
    gflop: float = 0.0
    varies: str | None = None
    difference: str = ""


@dataclass(frozen=True, kw_only=True)
class BackboneEntry(Entry):
    """A frozen backbone of GDD's discriminator.

    Attributes:
        network: Name of the feature network.
        asset: Id of its weights in ``config/assets.tsv``; None for weights that an installation has.
        gflop: Operations of an iteration in it and in its heads, in GFLOP per image, for plans, without R1.
    """

    network: str
    asset: str | None = None
    gflop: float = 0.0


#: Registries whose entries have facts, and the class of their entries.
FACTS: dict[str, type[Any]] = {
    "verbs": ListedVerb,
    "feature_networks": FeatureNetwork,
    "extractors": ExtractorEntry,
    "backbones": BackboneEntry,
}
#: All registries: tables of the files.
REGISTRIES = (
    *("methods", "families", "networks", "samplers", "drawings", "kernels", "metrics", *FACTS),
    *("dataset_kinds", "table_kinds", "figure_kinds", "hub_folders", "network_folders", "readers", "preset_writers"),
)


@functools.cache
def plugins() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Tables of each plugin by the name of its folder, sorted; without plugins that use one which is not here.

    Raises:
        UserError: A file is not TOML, or a table is not one of :data:`REGISTRIES` or does not name objects.
    """
    paths = sorted(FOLDER.glob(f"*/{TABLES}"))
    files = {path.parent.name: _read_tables(path, f"{PACKAGE}.{path.parent.name}") for path in paths}
    uses = {name: {*tables.pop("uses", [])} for name, tables in files.items()}
    return {name: tables for name, tables in files.items() if uses[name] <= files.keys()}


def _read_tables(path: Path, package: str) -> dict[str, Any]:
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
            objects[name] = _entry(registry, value, package, f"{path}: {registry}.{name}")
    return tables


def _entry(registry: str, value: Any, package: str, where: str) -> Any:
    if registry in FACTS:
        entry = from_mapping(FACTS[registry], value, where)
        return replace(entry, object=f"{package}.{entry.object}") if isinstance(entry, Entry) else entry
    if not isinstance(value, str) or _OBJECT.fault(value):
        raise UserError(where, f"must be 'module:object', got {value!r}", "correct it")
    return Entry(object=f"{package}.{value}")


@functools.cache
def entries(registry: str) -> Mapping[str, Any]:
    """Entries of a registry by name, those of the core first; imports nothing.

    Args:
        registry: One of :data:`REGISTRIES`; entries are of its class in :data:`FACTS`, else :class:`Entry`.

    Raises:
        UserError: As of :func:`plugins`, or a name is one of the core or of two plugins.
    """
    core = _core().get(registry, {})
    found = dict(core)
    for plugin, tables in plugins().items():
        for name, entry in tables.get(registry, {}).items():
            if name in found:
                owner = "the core" if name in core else "another plugin"
                raise UserError(FOLDER / plugin / TABLES, f"{registry}.{name}: {owner} has it", "rename it")
            found[name] = entry
    return found


@functools.cache
def _core() -> Mapping[str, Mapping[str, Any]]:
    return _read_tables(CORE, "sida")


@functools.cache
def missing_plugins(registry: str) -> Mapping[str, str]:
    """Names that plugins of this repository have and that are not here, each with its plugin.

    Args:
        registry: One of :data:`REGISTRIES`, or a kind of :func:`sida.config.named_files.find_file`.
    """
    with open(INDEX, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["plugin"] not in plugins()]
    return {row["name"]: row["plugin"] for row in rows if row["registry"] == registry}


T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Objects by name, in the order in which help and documents list them; each is imported when it is used.

    Args:
        table: One of :data:`REGISTRIES`.
        noun: Word for one object, in errors and help.
        base: ``module:class`` of which a custom object must be an instance or a subclass; empty: any object.
    """

    def __init__(self, table: str, noun: str, base: str = "") -> None:
        self.table, self.noun, self.base = table, noun, base

    def __getitem__(self, name: str) -> T:
        return cast(T, entries(self.table)[name].load())

    def __contains__(self, name: object) -> bool:
        return name in entries(self.table)

    def __iter__(self) -> Iterator[str]:
        return iter(entries(self.table))

    def __len__(self) -> int:
        return len(entries(self.table))

    def knows(self, name: object) -> bool:
        """Whether a name is registered or has the form ``module:object``; imports nothing."""
        return isinstance(name, str) and (name in self or names_object(name))

    def missing(self, name: str) -> tuple[str, str] | None:
        """Fault and remedy of a name that a plugin adds which is not here; None for any other name."""
        plugin = missing_plugins(self.table).get(name)
        if plugin is None:
            return None
        fault = f"{self.noun} '{name}' is in the plugin {plugin}, which is not here"
        if (FOLDER / plugin).is_dir():
            fault = f"{self.noun} '{name}' is in the plugin {plugin}, which uses another plugin that is not here"
        return fault, "put its folder back (git checkout plugins)"

    def refuse_missing(self, name: str, where: str) -> None:
        """Refuses a name of a plugin that is not here.

        Raises:
            UserError: :meth:`missing` has a fault.
        """
        if missing := self.missing(name):
            raise UserError(where, *missing)

    def check(self, name: object, where: str) -> str:
        """Returns the name if it is known.

        Raises:
            UserError: It is neither registered nor the name of a custom object.
        """
        if not self.knows(name):
            self.refuse_missing(str(name), where)
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
            return self[name]
        custom = load_object(name, where, self.noun)[1]
        if self.base:
            base = our_object(self.base)
            if not (isinstance(custom, base) or (isinstance(custom, type) and issubclass(custom, base))):
                class_name = self.base.replace(":", ".")
                fault = f"'{name}' is neither an instance nor a subclass of {class_name}"
                raise UserError(where, fault, "derive it from that class")
        return custom
