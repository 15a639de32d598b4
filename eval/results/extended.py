"""YAML files that extend others: layouts of tables and figures, protocols, presets."""

from pathlib import Path
from typing import Any

from sida.config.lookup import find_file
from sida.config.settings import load_yaml
from sida.errors import UserError


def read_extended(path: Path, extending: tuple[Path, ...] = (), beside: bool = False) -> dict[str, Any]:
    """Reads a YAML mapping; the file that ``extends`` names gives the keys that the mapping does not set.

    That file is in the same folder, or has the name of a file of ``config`` or of a study of the checkout.

    Args:
        path: The file.
        extending: Files that extend this one.
        beside: Whether ``extends`` may only name a file in the same folder.

    Raises:
        UserError: Missing file, not a mapping, or files that extend each other.
    """
    if path in extending:
        raise UserError(path, "extends: goes in a circle", "remove one of them")
    mapping = load_yaml(path)
    base = mapping.pop("extends", None)
    if base is None:
        return mapping
    if not isinstance(base, str) or (beside and Path(base).name != base):
        raise UserError(path, f"extends: must be the name of a file beside this one{'' if beside else ' or in config'}")
    neighbour = path.parent / base
    if path.parent.name in ("tables", "figures", "protocols") and (neighbour == path or not neighbour.is_file()):
        neighbour = find_file(path.parent.name, Path(base).stem, where=f"{path}: extends")
    return read_extended(neighbour, (*extending, path), beside) | mapping
