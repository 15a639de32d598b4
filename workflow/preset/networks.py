"""Networks of rows: trained here, imported from published files, or used in place."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eval.results.sheet import SheetRow
from sida.assets.registry import find_asset, is_address
from sida.config.families import NULL_LABEL
from workflow.preset.once import once
from workflow.preset.preset import Preset

#: Folders of networks below the results, by the kinds of :class:`Network`.
FOLDERS = {"teachers": "teachers", "students": "students", "imports": "checkpoints"}
#: Ends of the names of network files; an asset's id may have other dots (``...-a1.2``).
NETWORK_FILES = (".pkl", ".pt", ".pth", ".safetensors")


class Network(NamedTuple):
    """A network by kind and name.

    Kinds are ``teachers`` and ``students``, which are trained here, ``imports``, published files, and ``files``, which
    are used in place.
    """

    kind: str
    name: str


def generator(preset: Preset, row: SheetRow) -> Network | None:
    """The network that a row samples from; None for rows without a network."""
    if row.without_network:
        return None
    if row.checkpoint is not None:
        return checkpoint(preset, row.checkpoint)
    return teacher_network(preset, str(row.teacher)) if row.method == "teacher" else Network("students", row.first)


def teacher_network(preset: Preset, name: str) -> Network:
    """A teacher's network: trained here, or imported from its checkpoint."""
    published = preset.settings.teachers[name].checkpoint
    return checkpoint(preset, published) if published else Network("teachers", name)


def guide_of(preset: Preset, row: SheetRow) -> Network | None:
    """A row's guiding network, a teacher of the preset, a checkpoint or the null label; None without one."""
    if row.guide is None:
        return None
    if row.guide == NULL_LABEL:
        return Network("files", NULL_LABEL)
    if row.guide in preset.settings.teachers:
        return teacher_network(preset, row.guide)
    return checkpoint(preset, row.guide)


def sampler_guide(preset: Preset, row: SheetRow) -> Network | None:
    """The guiding network of a row's sampler; rows distilled here use their guide in training only."""
    return None if preset.runs[row.first].trained_here else guide_of(preset, row)


def checkpoint(preset: Preset, name: str) -> Network:
    """A published checkpoint after its import; a .safetensors file is used in place."""
    return Network("files", name) if _used_in_place(name) else Network("imports", _import_folders(preset)[name])


def network_path(preset: Preset, network: Network | None) -> str | None:
    """Path of a network; None for none."""
    if network is None or network.kind == "files":
        return network and network.name
    return f"{preset.results}/{FOLDERS[network.kind]}/{network.name}/network.safetensors"


@once
def imports(preset: Preset) -> dict[str, str]:
    """Published checkpoints that the preset imports: folder name to asset id, address or path."""
    network_names = {row.teacher for row in preset.runs.values() if row.trained_here or row.method == "teacher"}
    network_names |= {row.guide for row in preset.runs.values()}
    names = _checkpoints(preset)
    names += [teacher.checkpoint for name, teacher in preset.settings.teachers.items() if name in network_names]
    folders = _import_folders(preset)
    return {folders[name]: name for name in names if name in folders}


@once
def _import_folders(preset: Preset) -> dict[str, str]:
    # Teachers that no row uses count: a row that is added later renames no folder.
    teachers = (teacher.checkpoint for teacher in preset.settings.teachers.values())
    return import_folders([*_checkpoints(preset), *teachers])


def _checkpoints(preset: Preset) -> list[str | None]:
    """Checkpoints that rows name for themselves and as guides."""
    names = [row.checkpoint for row in preset.runs.values() if not row.without_network]
    not_checkpoints = (*preset.settings.teachers, NULL_LABEL)
    return names + [row.guide for row in preset.runs.values() if row.guide not in not_checkpoints]


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
