"""Files of presets: found by name, and read with the files that they change."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.config.mapping import load_yaml
from sida.config.resources import ROOT
from sida.errors import UserError, suggestion


def find_preset(name: str | Path, where: str = "--preset") -> Path:
    """Finds the file of a preset by its name, or by the path of its file or folder.

    Args:
        name: A name: ``studies/<name>/preset.yaml``, else ``studies/*/<name>.yaml``, here or in the
            checkout; or a path.
        where: File and key named in errors.

    Raises:
        UserError: No such preset; the message suggests the closest one, or names the file that a former path became.
    """
    path, known = Path(os.path.expanduser(name)), presets()
    is_name = len(path.parts) == 1 and not path.suffix
    if is_name and str(name) in known:
        return known[str(name)]
    given = [place / end for place in (path, ROOT / path) for end in ("", "preset.yaml")]
    found = next((file for file in given if os.path.isfile(file)), None)
    if found is not None:
        return found
    if path.parent.name == "config" and path.stem in known:
        raise UserError(f"{where} {name}: presets moved to studies/; name {known[path.stem]}")
    raise UserError(f"{where}: no preset '{name}'{suggestion(path.stem, known)}")


def preset_files(named: str, root: Path = Path()) -> list[Path]:
    """Files of presets, by their names or by paths below ``root``, with spaces between them.

    Raises:
        UserError: No such preset; see :func:`find_preset`.
    """
    # One path may have spaces in it.
    names = [named] if named and (root / named).exists() else named.split() or [named]
    return [root / name if (root / name).is_file() else find_preset(name) for name in names]


def presets() -> dict[str, Path]:
    """Files of all presets by name, sorted, from ``studies`` of the current folder and of the checkout.

    A preset has the name of its folder if its file is ``preset.yaml``, else the name of its file. Other YAML files
    there have neither a sample sheet (``runs``) nor a preset that they change (``base``).
    """
    found: dict[str, Path] = {}
    for place in (ROOT / "studies", Path("studies")):
        for path in place.glob("*/*.yaml"):
            if any(line.startswith(("runs:", "base:")) for line in path.read_text(encoding="utf-8").splitlines()):
                found[path.parent.name if path.name == "preset.yaml" else path.stem] = path
    return dict(sorted(found.items()))


def read_preset(
    paths: Sequence[str | Path], changed: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str, list[Path]]:
    """Reads files of a preset with those that they change (key ``base``).

    Args:
        paths: The files; keys of later files win.
        changed: Settings that win over those of all files, for example Snakemake's.

    Returns:
        Settings, files named in errors, and folders: the arguments of :class:`workflow.preset.Preset`.

    Raises:
        UserError: A file is missing or faulty, or files change each other.
    """
    files: dict[Path, dict[str, Any]] = {}
    for path in map(Path, paths):
        files |= dict(reversed(_with_bases(path).items()))
    config: dict[str, Any] = functools.reduce(_merged, [*files.values(), changed or {}], {})
    config.pop("base", None)
    folders = dict.fromkeys(file.parent for file in reversed(files))
    return config, ", ".join(map(str, paths)) or "config", list(folders)


def _with_bases(path: Path) -> dict[Path, dict[str, Any]]:
    """A file with those that it changes, the latest first."""
    found: dict[Path, dict[str, Any]] = {}
    following: Path | None = path
    while following is not None:
        if following in found:
            raise UserError(f"{following}: base: goes in a circle; remove one of them")
        found[following] = load_yaml(following)
        base = found[following].get("base")
        following = None if base is None else following.parent / str(base)
    return found


def _merged(config: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of a later file, mapping by mapping."""
    both = {key: _merged(config[key], value) for key, value in later.items() if _mappings(config.get(key), value)}
    return {**config, **later, **both}


def _mappings(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)
