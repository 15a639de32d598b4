"""YAML files that extend others: layouts of tables and figures, protocols, presets."""

from pathlib import Path
from typing import Any

from sida.config.named_files import find_file
from sida.config.settings import load_yaml
from sida.errors import UserError


def read_extended(path: Path, extending: tuple[Path, ...] = (), by_name: bool = False) -> dict[str, Any]:
    """Reads a YAML mapping; the file that ``extends`` names gives the keys that the mapping does not set.

    That file is in the same folder. Where it is not, a protocol, and a file in a folder ``tables`` or ``figures``,
    extends the one of that name and kind in ``config`` or in a study of the checkout.

    Args:
        path: The file.
        extending: Files that extend this one.
        by_name: Whether it is a protocol, whose ``extends`` must be a file's name, without a folder.

    Raises:
        UserError: Missing file, not a mapping, or files that extend each other.
    """
    if path in extending:
        raise UserError(path, "extends: goes in a circle", "remove one of them")
    mapping = load_yaml(path)
    base = mapping.pop("extends", None)
    if base is None:
        return mapping
    if not isinstance(base, str) or (by_name and Path(base).name != base):
        raise UserError(path, "extends: must be the name of a file beside this one or in config", "write it alone")
    neighbour = path.parent / base
    kind = "protocols" if by_name else path.parent.name
    if kind in ("tables", "figures", "protocols") and (neighbour == path or not neighbour.is_file()):
        neighbour = find_file(kind, Path(base).stem, where=f"{path}: extends")
    return read_extended(neighbour, (*extending, path), by_name) | mapping
