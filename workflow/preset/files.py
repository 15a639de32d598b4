"""Files of presets: found by name, and read with the files that they change."""

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.config.lookup import ROOT
from sida.config.registries import FOLDER
from sida.config.settings import load_yaml
from sida.errors import UserError, suggestion
from sida.files.text_files import read_text


def find_preset(name: str | Path, where: str = "preset") -> Path:
    """Finds the file of a preset by its name, or by the path of its file or folder.

    Args:
        name: A name: ``studies/<name>/preset.yaml``, else ``studies/*/<name>.yaml``, here or in the
            checkout, or a file of a plugin; or a path.
        where: File and key named in errors.

    Raises:
        UserError: No such preset; the message suggests the closest one.
    """
    path, preset_paths = Path(os.path.expanduser(name)), presets()
    is_name = len(path.parts) == 1 and not path.suffix and os.sep not in str(name)
    if is_name and str(name) in preset_paths:
        return preset_paths[str(name)]
    candidates = [base / file for base in (path, ROOT / path) for file in ("", "preset.yaml")]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    if not is_name:
        found = "is a folder without preset.yaml" if path.is_dir() else "no such file or folder"
        raise UserError(f"{where} {name}", found, "name a preset, or its file or folder (sida presets lists the names)")
    raise UserError(where, f"no preset '{name}'{suggestion(path.stem, preset_paths)}")


def presets() -> dict[str, Path]:
    """Files of all presets by name, sorted, from plugins, and ``studies`` of the current folder and of the checkout.

    A preset has the name of its folder if its file is ``preset.yaml``, else the name of its file. Other YAML files
    there have neither a sample sheet (``runs``) nor a preset that they change (``base``).
    """
    paths: dict[str, Path] = {}
    # A study of the current folder replaces one of the checkout.
    for studies in (FOLDER, ROOT / "studies", Path("studies")):
        for path in studies.glob("*/*.yaml"):
            # A file that cannot be read as text is not a preset; other presets are listed nevertheless.
            with contextlib.suppress(UserError):
                if any(line.startswith(("runs:", "base:")) for line in read_text(path).splitlines()):
                    paths[path.parent.name if path.name == "preset.yaml" else path.stem] = path
    return dict(sorted(paths.items()))


def listed_name(source: str) -> str:
    """The name by which :func:`find_preset` finds a preset's file, else its path; its own name may be another."""
    files = presets().items() if os.path.isfile(source) else ()
    return next((name for name, path in files if os.path.samefile(path, source)), source)


def read_preset(
    paths: Sequence[str | Path], changed: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str, list[Path]]:
    """Reads files of a preset with the files that they change (key ``base``).

    Args:
        paths: The files; keys of later files win.
        changed: Settings that win over all files, for example Snakemake's.

    Returns:
        Settings, files named in errors, and folders: the arguments of :func:`sida.workflow.preset.preset_from`.

    Raises:
        UserError: A file is missing or faulty, or files change each other.
    """
    files: dict[Path, dict[str, Any]] = {}
    for path in map(Path, paths):
        files |= dict(reversed(_with_bases(path).items()))
    config: dict[str, Any] = functools.reduce(_merge, [*files.values(), changed or {}], {})
    config.pop("base", None)
    folders = dict.fromkeys(file.parent for file in reversed(files))
    return config, ", ".join(map(str, paths)) or "config", list(folders)


def _with_bases(path: Path) -> dict[Path, dict[str, Any]]:
    """A file with the files that it changes, the latest first."""
    settings: dict[Path, dict[str, Any]] = {}
    # A path through a parent folder differs each time.
    seen = set[str]()
    following: Path | None = path
    while following is not None:
        if (real := os.path.realpath(following)) in seen:
            raise UserError(following, "base: goes in a circle", "remove one of them")
        seen.add(real)
        settings[following] = load_yaml(following)
        base = settings[following].get("base")
        if base is None:
            following = None
        else:
            by_path = following.parent / str(base)
            following = by_path if by_path.suffix else find_preset(str(base), f"{following}: base")
    return settings


def _merge(config: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, replaced by the settings of a later file, mapping by mapping."""
    both = {
        key: _merge(config[key], value)
        for key, value in later.items()
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping)
    }
    return {**config, **later, **both}
