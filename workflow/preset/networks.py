"""Network files of a preset: trained here, imported from published files, or used in place."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sida.assets.registry import find_asset, is_address
from sida.config.families import NULL_LABEL

#: Folders of networks below the results, by the kinds of :class:`Network`.
FOLDERS = {"teachers": "teachers", "students": "students", "imports": "checkpoints"}
#: Ends of the names of network files; an asset's id may have other dots (``...-a1.2``).
NETWORK_FILES = (".pkl", ".pt", ".pth", ".safetensors")


class Network(NamedTuple):
    """A network file by kind, name and path.

    Kinds are ``teachers`` and ``students``, which are trained here, ``imports``, published files, and ``files``, which
    are used in place.
    """

    kind: str
    name: str
    path: str


#: The guided network itself without a class, a guide without a file.
NULL_NETWORK = Network("files", NULL_LABEL, NULL_LABEL)


class NetworkFiles:
    """Names and paths of the network files of a preset.

    Args:
        results: Folder of the preset's products.
        checkpoints: Published checkpoints of all rows and teachers, by asset id, address or path; None is left out.
            Teachers that no row uses count: a row that is added later renames no folder.
    """

    def __init__(self, results: str, checkpoints: Iterable[str | None]) -> None:
        self._results, self._folders = results, import_folders(checkpoints)

    def made(self, kind: str, name: str) -> Network:
        """A network below the results."""
        return Network(kind, name, f"{self._results}/{FOLDERS[kind]}/{name}/network.safetensors")

    def published(self, checkpoint: str) -> Network:
        """A published checkpoint after its import; a .safetensors file is used in place."""
        if _used_in_place(checkpoint):
            return Network("files", checkpoint, checkpoint)
        return self.made("imports", self._folders[checkpoint])

    def imports(self, checkpoints: Iterable[str | None]) -> dict[str, str]:
        """The checkpoints among some that are imported: folder name to asset id, address or path."""
        return {self._folders[name]: name for name in checkpoints if name in self._folders}


def import_folders(checkpoints: Iterable[str | None]) -> dict[str, str]:
    """Names of folders for imported checkpoints, by asset id, address or path.

    A folder has the asset's id, which may contain dots (``...-a1.2``), or the file's stem. Checkpoints of equal stems
    (``a/network-snapshot.pkl``, ``b/network-snapshot.pkl``) get a digest of their path at the end.
    """
    names = {name: _folder_name(name) for name in checkpoints if name and not _used_in_place(name)}
    counts = Counter(names.values())
    return {
        name: folder if counts[folder] == 1 else f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, folder in names.items()
    }


def _used_in_place(name: str) -> bool:
    return name.endswith(".safetensors") and not is_address(name)


def _folder_name(name: str) -> str:
    path = Path(find_asset({}, name).target if is_address(name) else name)
    return path.stem if path.suffix in NETWORK_FILES else path.name
