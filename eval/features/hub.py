"""Loads networks from repositories with a ``hubconf.py``: a registered archive of one commit, or a local folder."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import torch

from sida.assets import check_pinned_code, checked, fetch, load_registry
from sida.config.plugins import check_code_path
from sida.errors import UserError
from sida.files.atomic import atomic_path, sha256_file, sha256_json
from sida.files.npy import ZIP_FAULTS
from sida.networks.checkpoint import read_state_dict

#: Largest number of Python files in an archive, and of their bytes; DINOv2 has about a hundred files, 0.7 MB.
_FILES, _BYTES = 2_000, 16_000_000


def load_hub_model(repository: str, model: str, weights: str | Path) -> tuple[torch.nn.Module, str]:
    """Loads a network with its weights.

    Args:
        repository: Id of a registered archive, or a folder with ``hubconf.py``, which needs the user's permission.
        model: Entry point of ``hubconf.py``.
        weights: Id of a registered file, a file, or ``"hub"``: the repository loads the weights.

    Returns:
        The network, and the digest of the repository's Python files.

    Raises:
        UserError: The code is not permitted, or code or weights cannot be loaded.
    """
    registry = load_registry()
    own = weights == "hub"
    given = None if str(weights) in registry else checked(weights)
    if repository not in registry and not Path(repository).is_dir():
        raise UserError(f"{repository}: no such folder; give a copy of the repository, a folder with hubconf.py")
    if repository not in registry:
        check_code_path(repository, "a folder whose hubconf.py is run")
    else:
        check_pinned_code(registry[repository])
    path = given or fetch(str(weights))
    if not own and not path.is_file():
        raise UserError(f"{path}: no such file of weights; leave the option out to take the registered ones")
    folder = unpack_code(fetch(repository)) if repository in registry else Path(repository)
    try:
        net: torch.nn.Module = torch.hub.load(str(folder), model, source="local", verbose=False, pretrained=own)
    except Exception as error:  # the repository's code may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder}: cannot load '{model}' ({reason}); give another copy of the repository") from None
    if not own:
        try:
            net.load_state_dict(read_state_dict(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: does not hold the weights of '{model}' ({reason}); fetch it again") from None
    code = {file.relative_to(folder).as_posix(): sha256_file(file) for file in folder.rglob("*.py")}
    return net, sha256_json({name: digest for name, digest in code.items() if _used(PurePosixPath(name))})


def unpack_code(archive: Path) -> Path:
    """Writes the Python files of a GitHub archive into a folder beside it, where they are missing or differ.

    Raises:
        UserError: The file is no such archive, or is too large.
    """
    folder = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as file:
            # Without the top folder that GitHub adds.
            inside = {PurePosixPath(*PurePosixPath(m.filename).parts[1:]): m for m in file.infolist()}
            files = {name: m for name, m in inside.items() if _used(name)}
            if len(files) > _FILES or sum(m.file_size for m in files.values()) > _BYTES:
                raise UserError(f"{archive}: holds more than {_FILES:,} Python files or {_BYTES:,} bytes of them")
            if PurePosixPath("hubconf.py") not in files or any(".." in name.parts for name in files):
                raise UserError(f"{archive}: is no archive of a repository with hubconf.py; fetch it again")
            contents = {folder / name: file.read(member) for name, member in files.items()}
    except ZIP_FAULTS as error:
        raise UserError(f"{archive}: not a readable zip archive ({error}); fetch it again") from None
    for path, content in contents.items():
        if not path.is_file() or path.read_bytes() != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
    return folder


def _used(name: PurePosixPath) -> bool:
    """Whether a file is ``hubconf.py`` or in a package; other files, such as ``setup.py``, are not needed."""
    return name.suffix == ".py" and (len(name.parts) > 1 or name.name == "hubconf.py")
