"""One lookup for everything that is data: protocols, layouts, sample sheets, label counts, the registry.

``config/`` of a checkout is the one place where people edit. A name such as ``cifar10`` of the kind ``protocols`` is
looked for in the preset's own folder, then in ``config/`` of the current folder, then in ``config/`` of the checkout
that this package runs from; an installed package has a copy of it instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sida.errors import UserError, suggestion

_PACKAGE = Path(__file__).resolve().parents[1]
#: Copies that a wheel brings along (see ``pyproject.toml``).
_SHIPPED = _PACKAGE / "shipped"
#: Holds ``config`` and ``results/published``: the checkout, or the copies of a wheel.
ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent
#: Whether the package is used from a checkout, which has the workflow and ``make setup``; else from a wheel.
CHECKOUT = not _SHIPPED.is_dir()
PUBLISHED = ROOT / "results" / "published"

#: What a kind is called in errors, by its folder in ``config``; the folder itself has the name "".
_KINDS = {
    "": ("file of config", ".yaml"),
    "protocols": ("protocol", ".yaml"),
    "tables": ("layout of a table", ".yaml"),
    "figures": ("layout of a figure", ".yaml"),
    "labels": ("label counts", ".json"),
    "recipes": ("file of recipes", ".yaml"),
    "runs": ("sample sheet", ".tsv"),
}
#: Endings of such files; other dots belong to names.
_SUFFIXES = {".yaml", ".yml", ".json", ".tsv"}


def find(kind: str, name: str | Path, own: Iterable[Path] = (), where: str = "") -> Path:
    """Finds a file by name, or by a path.

    Args:
        kind: Folder of ``config``: ``protocols``, ``tables``, ``figures``, ``labels``, ``recipes``, ``runs``; "" is
            ``config``.
        name: A name without the kind's suffix, looked for in each of :func:`search_folders`; or a path with one, taken
            as relative to the preset's own folder, else to the current folder, else to the checkout.
        own: The preset's own folders, searched first.
        where: File and key named in errors.

    Returns:
        The path; relative where the place is.

    Raises:
        UserError: No such name (the closest one is suggested) or no such file.
    """
    noun, suffix = _KINDS[kind]
    path, own = Path(name).expanduser(), list(own)
    prefix = f"{where}: " if where else ""
    is_name = len(path.parts) <= 1
    # A name may have a dot, as in 'cifar10-v1.2'.
    named = [place / kind / f"{name}{suffix}" for place in search_folders(own)] if is_name else []
    given = [base / path for base in (*own, Path(), ROOT)] if path.suffix or not is_name else []
    found = next((file for file in (*named, *given) if os.path.isfile(file)), None)
    if found is None and is_name and path.suffix not in _SUFFIXES:
        raise UserError(f"{prefix}no {noun} '{name}'{suggestion(str(name), names(kind, own))}")
    if found is None:
        raise UserError(f"{prefix}no such file '{name}'; give a {noun} by its name or path")
    return found


def base_name(name: str | Path) -> str:
    """What a file given by its name or path is called: ``curve`` of ``layouts/curve.yaml``, ``v1.2`` of itself."""
    path = Path(name)
    return path.stem if path.suffix in _SUFFIXES else path.name


def there(path: str, own: Iterable[Path] = ()) -> str:
    """A data path: in one of the preset's own folders, the current folder or the checkout; as given if nowhere."""
    found = ((base / Path(path).expanduser()) for base in (*own, Path(), ROOT))
    return str(next((place for place in found if place.exists()), path))


def names(kind: str, own: Iterable[Path] = ()) -> list[str]:
    """Names of a kind that :func:`find` knows, sorted."""
    suffix = _KINDS[kind][1]
    return sorted({path.stem for place in search_folders(own) for path in (place / kind).glob(f"*{suffix}")})


def search_folders(own: Iterable[Path] = ()) -> list[Path]:
    """Folders that are searched for names, the first choice first."""
    return list(dict.fromkeys([*own, Path("config"), ROOT / "config"]))


def how_to_install(*packages: str) -> str:
    """The command that installs packages: a checkout has all of them in its lock.

    Args:
        packages: Requirements as pip takes them, for example ``diffusers>=0.27``.
    """
    return "make setup" if CHECKOUT else "pip install " + " ".join(f"'{package}'" for package in packages)
