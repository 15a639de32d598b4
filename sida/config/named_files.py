"""Data files by name: protocols, layouts, sample sheets, label counts, the registry of downloads.

A name such as ``cifar10`` of the kind ``protocols`` is looked for in the preset's folder, then in ``config/`` of the
current folder, then in ``config/`` of the checkout that this package runs from (a wheel contains a copy of it) and of
its plugins; a name of a command line, which has no preset, also in the checkout's studies.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from sida.config.lookup import PLUGINS, ROOT
from sida.config.registries import missing_plugins
from sida.errors import UserError, suggestion

#: Name in errors and suffix of each kind, by its folder in ``config``; "" is ``config`` itself.
_KINDS = {
    "": ("file of config", ".yaml"),
    "protocols": ("protocol", ".yaml"),
    "tables": ("layout of a table", ".yaml"),
    "figures": ("layout of a figure", ".yaml"),
    "labels": ("label counts", ".json"),
    "retraining": ("scatter of trainings", ".yaml"),
    "recipes": ("file of recipes", ".yaml"),
    "runs": ("sample sheet", ".tsv"),
    "networks": ("architecture", ".yaml"),
}
#: Suffixes of such files; other dots are part of the name.
SUFFIXES = {".yaml", ".yml", ".json", ".tsv"}


def find_file(kind: str, name: str | Path, own: Iterable[Path] = (), where: str = "") -> Path:
    """Finds a file by name, or by a path.

    Args:
        kind: Folder of ``config``: ``protocols``, ``tables``, ``figures``, ``labels``, ``recipes``, ``runs``; "" is
            ``config``.
        name: A name without the kind's suffix, looked for in each of :func:`search_folders`; or a path with one, taken
            as relative to the preset's folder, else to the current folder, else to the checkout.
        own: Folders of the preset, searched first.
        where: File and key named in errors.

    Returns:
        The path; relative if its folder is.

    Raises:
        UserError: No such name (the message suggests the closest one), or no such file.
    """
    noun, suffix = _KINDS[kind]
    path, own = Path(os.path.expanduser(name)), list(own)
    prefix = f"{where}: " if where else ""
    is_name = len(path.parts) <= 1
    # A name may have a dot, as in 'cifar10-v1.2', so that a suffix does not make it a path.
    candidates = [folder / kind / f"{name}{suffix}" for folder in search_folders(own)] if is_name else []
    if kind == "runs" and is_name:
        candidates += [folder / name / "runs.tsv" for folder in (Path("studies"), ROOT / "studies")]
    relative = [base / path for base in (*own, Path(), ROOT)] if path.suffix or not is_name else []
    match = next((file for file in (*candidates, *relative) if os.path.isfile(file)), None)
    if match is None and is_name and path.suffix not in SUFFIXES:
        if plugin := missing_plugins(kind).get(str(name)):
            fault = f"{prefix}{noun} '{name}' is in the plugin {plugin}, which is not here"
            raise UserError("", fault, "put the folder back (git checkout plugins)")
        raise UserError("", f"{prefix}no {noun} '{name}'{suggestion(str(name), file_names(kind, own))}")
    if match is None:
        raise UserError("", f"{prefix}no such file '{name}'", f"give a {noun} by its name or path")
    return match


def find_path(path: str, own: Iterable[Path] = ()) -> str:
    """A data path below a folder of the preset, the current folder or the checkout; unchanged if it exists nowhere."""
    candidates = (base / os.path.expanduser(path) for base in (*own, Path(), ROOT))
    return str(next((candidate for candidate in candidates if candidate.exists()), path))


def file_names(kind: str, own: Iterable[Path] = ()) -> list[str]:
    """All names of a kind for :func:`find_file`, sorted."""
    suffix = _KINDS[kind][1]
    names = {path.stem for folder in search_folders(own) for path in (folder / kind).glob(f"*{suffix}")}
    if kind == "runs":
        names |= {path.parent.name for path in (ROOT / "studies").glob("*/runs.tsv")}
    return sorted(names)


def search_folders(own: Iterable[Path] = ()) -> list[Path]:
    """Folders in which names are looked for, in order: without a preset, also those of the checkout's studies."""
    own, studies = list(own), ROOT / "studies"
    study_folders = () if own or not studies.is_dir() else sorted(path for path in studies.iterdir() if path.is_dir())
    of_plugins = sorted(PLUGINS.glob("*/config"))
    return list(dict.fromkeys([*own, Path("config"), ROOT / "config", *of_plugins, *study_folders]))
