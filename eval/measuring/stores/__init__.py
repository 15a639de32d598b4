"""Stores of image files: a folder, a zip or tar of pictures, or an array in ``.npz``/``.npy``, read as a stream.

Nothing is resized, converted or rescaled, since a silent conversion would change the protocol. Unsuitable images are
refused with the file's name and the remedy.
"""

from __future__ import annotations

import os
from pathlib import Path

from eval.measuring.stores.arrays import ArrayStore
from eval.measuring.stores.base import ImageStore
from eval.measuring.stores.pictures import PictureStore
from sida.config.ranges import names_object
from sida.errors import UserError
from sida.files.archives import FolderFiles, TarFiles, ZipFiles

__all__ = ["Store", "open_store"]


def open_images(path: str | os.PathLike[str]) -> ImageStore:
    """Opens a folder, ``.zip``, ``.tar`` (also compressed), ``.npz`` or ``.npy``.

    Raises:
        UserError: A missing file, another kind of file, shards of ``sida sample``, or a store without images.
    """
    path = Path(path)
    if path.is_dir():
        if next(path.glob("shard-*.npz"), None):
            raise UserError(
                f"{path}: holds shards of `sida sample`, which are not read here; sample to --out {path}.zip or "
                f"{path}.npz, or with --png into another folder"
            )
        return PictureStore(FolderFiles(path))
    if not path.is_file() and names_object(str(path)):
        raise UserError(
            f"{path}: a Python function, which is no file of images; write its images into a .npz file, or name it in "
            "column 'checkpoint' of a sample sheet (docs/add-a-method.md, 2)"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such folder or file of images")
    if path.suffix == ".zip":
        return PictureStore(ZipFiles(path))
    if ".tar" in path.suffixes or path.suffix in (".tgz", ".txz"):
        return PictureStore(TarFiles(path))
    if path.suffix in (".npz", ".npy"):
        return ArrayStore(path)
    raise UserError(f"{path}: not a folder, .zip, .tar, .npz or .npy of images")
