"""Reads a preset: its files and sheet, the files that these name, and checks between them."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.config.families import NULL_LABEL
from sida.config.named_files import SUFFIXES, find_file, find_path
from sida.config.recipe import Recipe
from sida.config.settings import from_mapping, load_yaml
from sida.errors import UserError, suggestion
from sida.eval.results.extended import read_extended
from sida.eval.results.sheet import SheetRow, read_runs
from sida.workflow.preset.data_sets import Archives, DataSets
from sida.workflow.preset.files import read_preset
from sida.workflow.preset.networks import NetworkFiles
from sida.workflow.preset.outside_code import check_code, outside_claims, outside_code, texts
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.resolving import Resolver, check_objects
from sida.workflow.preset.rows import Row
from sida.workflow.preset.settings import PresetSettings, TeacherEntry
from sida.workflow.preset.specs import stored_rows

#: Settings that name a file, with the folder of ``config`` where such files are.
_FILES = {"runs": "runs", "protocol": "protocols", "claims": "", "retraining": "retraining"}


def load_preset(*paths: str | Path, changed: Mapping[str, Any] | None = None) -> Preset:
    """Loads preset files; keys of later files win, as with Snakemake's ``--configfile``.

    Args:
        paths: The files.
        changed: Settings that win over all files.

    Raises:
        UserError: Any fault in a file, the sheet or between them.
    """
    return preset_from(*read_preset(paths, changed))


def preset_from(config: Mapping[str, Any], source: str = "config", folders: Sequence[Path] = ()) -> Preset:
    """Makes a preset of settings; arguments are as :func:`~sida.workflow.preset.files.read_preset` returns them.

    Args:
        config: Settings, Snakemake's overrides included.
        source: File named in errors.
        folders: Folders of the preset, which are searched first for files, data sets, checkpoints, protocols and
            layouts that the preset or its sheet names (:mod:`sida.config.lookup`).

    Raises:
        UserError: Any fault in the settings, the sheet or between them.
    """
    settings = from_mapping(PresetSettings, config, f"{source}:")
    folders = (*folders, *([Path(settings.stored["beside"])] if settings.stored else []))
    layouts = {kind: _by_product(getattr(settings, kind), f"{source}: {kind}") for kind in ("tables", "figures")}
    settings = _with_paths(settings, layouts, folders, source)
    folders = (*folders, Path(settings.runs).parent)
    layout_paths = {
        kind: {name: find_file(kind, layout, folders, f"{source}: {kind}") for name, layout in layouts[kind].items()}
        for kind in layouts
    }
    rows = [_row_with_paths(row, settings, folders) for row in read_runs(settings.runs)]
    settings = _with_recipes(settings, rows, folders)
    second = {
        first: str(find_file("protocols", name, folders, f"{source}: second_protocols.{first}"))
        for first, name in settings.second_protocols.items()
    }
    # Before a protocol or method is looked up, since that imports the code that it names.
    code = outside_code(_documents(settings, rows, second.values(), source)) | outside_claims(settings.claims, source)
    check_code(code, source)
    data = DataSets(settings, source)
    data.named(settings.dataset, f"{source}: dataset")
    check_objects(settings, source)
    checkpoints = _checkpoints(settings, rows)
    every_checkpoint = [*checkpoints, *(teacher.checkpoint for teacher in settings.teachers.values())]
    files = NetworkFiles(f"results/{settings.preset}", every_checkpoint)
    resolver = Resolver(settings, source, data, files, second)
    resolved = resolver.rows(rows)
    preset = Preset(
        source=source,
        folders=folders,
        settings=settings,
        layouts=layout_paths,
        rows=resolved,
        teachers=resolver.teachers,
        protocol=resolver.protocol(settings.protocol),
        data=data,
        archives=Archives(data, _data_sets(settings, resolved.values())),
        imports=files.imports(checkpoints),
        code=code,
    )
    return dataclasses.replace(preset, taken=stored_rows(preset))


def _checkpoints(settings: PresetSettings, rows: Iterable[SheetRow]) -> list[str | None]:
    """Checkpoints that rows name for themselves and as guides, and those of the teachers that they use."""
    names = [row.checkpoint for row in rows if not row.without_network]
    guides = [row.guide for row in rows]
    names += [guide for guide in guides if guide not in (*settings.teachers, NULL_LABEL)]
    used = {row.teacher for row in rows if row.trained_here or row.method == "teacher"}.union(guides)
    return names + [teacher.checkpoint for name, teacher in settings.teachers.items() if name in used]


def _data_sets(settings: PresetSettings, rows: Iterable[Row]) -> dict[str, str]:
    """Data sets of rows, teachers and protocols, sorted, each with the place in a protocol that names it, or empty."""
    rows = list(rows)
    places = {name: where for row in rows for where, name in row.protocol.fixed_datasets().items()}
    names = {*places, settings.dataset, *(row.cells.dataset for row in rows)}
    names |= {teacher.dataset for teacher in settings.teachers.values()}
    return {name: places.get(name, "") for name in sorted(filter(None, names))}


def _by_product(layouts: Iterable[str], where: str) -> dict[str, str]:
    """Layouts as a preset names them, by the names of their products."""
    products: dict[str, str] = {}
    for layout in layouts:
        path = Path(layout)
        name = path.stem if path.suffix in SUFFIXES else path.name
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(where, f"'{name}' cannot name a product", "use letters, digits, '.', '_' and '-'")
        if name in products:
            fault = f"'{products[name]}' and '{layout}' would both make '{name}'"
            raise UserError(where, fault, "rename or remove one")
        products[name] = layout
    return products


def _with_paths(
    settings: PresetSettings, layouts: Mapping[str, Mapping[str, str]], folders: Sequence[Path], source: str
) -> PresetSettings:
    """Settings with paths instead of names of files, so that they do not depend on the preset's folder."""
    changes: dict[str, Any] = {kind: tuple(products) for kind, products in layouts.items()}
    for key, kind in _FILES.items():
        if (name := getattr(settings, key)) is not None:
            changes[key] = str(find_file(kind, name, folders, f"{source}: {key}"))
    changes["search"] = tuple(str(find_file("", name, folders, f"{source}: search")) for name in settings.search)
    changes["teachers"] = {
        name: _one_way(teacher, settings.train_teachers, folders) for name, teacher in settings.teachers.items()
    }
    changes["datasets"] = {name: _dataset_with_paths(entry, folders) for name, entry in settings.datasets.items()}
    return dataclasses.replace(settings, **changes)


def _one_way(teacher: TeacherEntry, train: bool, folders: Sequence[Path]) -> TeacherEntry:
    """A teacher that is either trained or downloaded; an entry may describe both ways."""
    if not teacher.checkpoint:
        return teacher
    if train and teacher.training:
        return dataclasses.replace(teacher, checkpoint=None)
    return dataclasses.replace(teacher, training=None, checkpoint=find_path(teacher.checkpoint, folders))


def _dataset_with_paths(entry: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if entry.get("path"):
        changes["path"] = find_path(entry["path"], folders)
    if source := (origin := entry.get("made_from") or {}).get("source"):
        changes["made_from"] = {**origin, "source": find_path(source, folders)}
    return {**entry, **changes}


def _row_with_paths(row: SheetRow, settings: PresetSettings, folders: Sequence[Path]) -> SheetRow:
    """A row with paths instead of names of files."""
    keys = ["checkpoint"] if row.guide in (*settings.teachers, NULL_LABEL) else ["checkpoint", "guide"]
    changes: dict[str, Any] = {key: find_path(path, folders) for key in keys if (path := getattr(row, key))}
    for key in ("protocol", "second_protocol"):
        if name := getattr(row, key):
            changes[key] = str(find_file("protocols", name, folders, f"{settings.runs}: run '{row.run}'"))
    return dataclasses.replace(row, **changes)


def _with_recipes(settings: PresetSettings, rows: Iterable[SheetRow], folders: Sequence[Path]) -> PresetSettings:
    """Settings with the recipes of files in ``recipes/`` that rows name (``imagenet64/sida``)."""
    recipes, files = dict(settings.recipes), dict[str, dict[str, Any]]()
    for row in rows:
        recipe = row.recipe or ""
        file, slash, name = recipe.partition("/")
        if not slash or recipe in recipes:
            continue
        where = f"{settings.runs}: run '{row.run}': recipe"
        path = find_file("recipes", file, folders, where)
        entries = files.setdefault(file, load_yaml(path))
        if name not in entries:
            raise UserError(where, f"no '{name}' in {path}{suggestion(name, entries)}")
        from_mapping(Recipe, entries[name], f"{path}: {name}")
        recipes[recipe] = entries[name]
    return dataclasses.replace(settings, recipes=recipes)


def _documents(
    settings: PresetSettings, rows: Sequence[SheetRow], second: Iterable[str], source: str
) -> dict[str, Any]:
    """Contents of files that may name code, by path: settings and recipes, rows, protocols, shared data sets in use.

    Names of files are paths already. Layouts are not among them: the kind of a table or figure is imported later, and
    with the user's permission only.
    """
    documents: dict[str, Any] = {source: dataclasses.asdict(settings)}
    documents[settings.runs] = {
        f"run '{row.run}'": {"method": row.method, "checkpoint": row.checkpoint, "dataset": row.dataset} for row in rows
    }
    protocols = [settings.protocol, *second]
    protocols += [path for row in rows for path in (row.protocol, row.second_protocol) if path]
    documents |= {path: read_extended(Path(path), by_name=True) for path in dict.fromkeys(protocols)}
    datasets = {text for path in documents for key, text, _ in texts(documents[path], path) if key == "dataset"}
    entries = load_yaml(path := find_file("", "datasets"))
    return documents | {f"{path}: {name}": entry for name, entry in entries.items() if name in datasets}
