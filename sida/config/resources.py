"""Lookup of data files by name: protocols, layouts, sample sheets, label counts, the registry.

A name such as ``cifar10`` of the kind ``protocols`` is looked for in the preset's folder, then in ``config/`` of the
current folder, then in ``config/`` of the checkout that this package runs from (a wheel contains a copy of it); a name
of a command line, which has no preset, also in the checkout's studies.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from sida.errors import UserError, suggestion

_PACKAGE = Path(__file__).resolve().parents[1]
#: Copies of ``config`` and published results in a wheel (see ``pyproject.toml``).
_SHIPPED = _PACKAGE / "shipped"
#: Folder with ``config`` and ``results/published``: the checkout, or the copies in a wheel.
ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent
#: Whether the package runs from a checkout, which has the workflow and ``make setup``, or from a wheel.
CHECKOUT = not _SHIPPED.is_dir()

#: Name in errors and suffix of each kind, by its folder in ``config``; "" is ``config`` itself.
_KINDS = {
    "": ("file of config", ".yaml"),
    "protocols": ("protocol", ".yaml"),
    "tables": ("layout of a table", ".yaml"),
    "figures": ("layout of a figure", ".yaml"),
    "labels": ("label counts", ".json"),
    "recipes": ("file of recipes", ".yaml"),
    "runs": ("sample sheet", ".tsv"),
    "networks": ("architecture", ".yaml"),
}
#: Suffixes of such files; other dots are part of the name.
SUFFIXES = {".yaml", ".yml", ".json", ".tsv"}


def find(kind: str, name: str | Path, own: Iterable[Path] = (), where: str = "") -> Path:
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
    # A name may have a dot, as in 'cifar10-v1.2'.
    named = [place / kind / f"{name}{suffix}" for place in search_folders(own)] if is_name else []
    if kind == "runs" and is_name:
        named += [place / name / "runs.tsv" for place in (Path("studies"), ROOT / "studies")]
    given = [base / path for base in (*own, Path(), ROOT)] if path.suffix or not is_name else []
    found = next((file for file in (*named, *given) if os.path.isfile(file)), None)
    if found is None and is_name and path.suffix not in SUFFIXES:
        raise UserError("", f"{prefix}no {noun} '{name}'{suggestion(str(name), names(kind, own))}")
    if found is None:
        raise UserError("", f"{prefix}no such file '{name}'", f"give a {noun} by its name or path")
    return found


def found_path(path: str, own: Iterable[Path] = ()) -> str:
    """A data path below a folder of the preset, the current folder or the checkout; unchanged if it exists nowhere."""
    places = (base / os.path.expanduser(path) for base in (*own, Path(), ROOT))
    return str(next((place for place in places if place.exists()), path))


def names(kind: str, own: Iterable[Path] = ()) -> list[str]:
    """All names of a kind for :func:`find`, sorted."""
    suffix = _KINDS[kind][1]
    found = {path.stem for place in search_folders(own) for path in (place / kind).glob(f"*{suffix}")}
    if kind == "runs":
        found |= {path.parent.name for path in (ROOT / "studies").glob("*/runs.tsv")}
    return sorted(found)


def search_folders(own: Iterable[Path] = ()) -> list[Path]:
    """Folders in which names are looked for, in order: without a preset, also those of the checkout's studies."""
    own, studies = list(own), ROOT / "studies"
    more = () if own or not studies.is_dir() else sorted(path for path in studies.iterdir() if path.is_dir())
    return list(dict.fromkeys([*own, Path("config"), ROOT / "config", *more]))


def how_to_install(*packages: str) -> str:
    """The command that installs packages: ``make setup`` in a checkout, whose locks have all of them, else pip.

    Args:
        packages: Requirements as pip takes them, for example ``diffusers>=0.27``.
    """
    return "make setup" if CHECKOUT else "pip install " + " ".join(f"'{package}'" for package in packages)
