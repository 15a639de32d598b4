"""Data sets in the EDM format: images in a zip or folder, labels in ``dataset.json`` beside them.

    00000/img00000000.png … , dataset.json = {"labels": [["00000/img00000000.png", 3], …]} or {"labels": null}

PNG (or any lossless picture) or npy of shape (C, H, W). Source: NVlabs/edm:dataset_tool.py, training/dataset.py.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sida.data.dataset import Dataset
from sida.data.pictures import MOST_SUM, PixelSum, open_picture
from sida.errors import UserError
from sida.files.archives import PICTURES, Files, ZipFiles, open_files
from sida.files.npy import MAGIC, read_npy

ARRAYS = frozenset({".npy"})
#: Largest number of classes: labels become one-hot rows of this width.
MAX_CLASSES = 100_000
#: Largest number of bytes of ``dataset.json`` per image: a name, and a class or a vector of a thousand numbers.
_LABEL_BYTES = 24_000


class ImageArchive(Dataset):
    """Data set that reads images on demand from an archive or folder.

    Args:
        path: Zip archive or folder, or its open files.
        name: Name for records.
        use_labels: False makes the data set unconditional.
        max_size: See :class:`~sida.data.Dataset`.
        random_seed: See :class:`~sida.data.Dataset`.
        xflip: See :class:`~sida.data.Dataset`.
        cache: Whether to keep images in memory (of each process) once they are read; for data sets that fit.

    Attributes:
        dtype: uint8, or float32 for latents.

    Raises:
        UserError: The archive is missing or broken, has no images or unreadable or incomplete labels, or its first
            image is not square, or neither grey nor RGB. Other images are checked when they are read.
    """

    def __init__(
        self,
        path: str | Files,
        name: str | None = None,
        use_labels: bool = True,
        max_size: int | None = None,
        random_seed: int = 0,
        xflip: bool = False,
        cache: bool = False,
    ) -> None:
        self.files = path if isinstance(path, Files) else open_files(path)
        self.members = image_members(self.files)
        first = self._decode(0)
        channels, height, width = first.shape
        if height != width:
            remedy = "images must be square (sida data prepare --transform center-crop makes them so)"
            raise UserError(self.files.where(int(self.members[0])), f"is {width}×{height}", remedy)
        labels = read_labels(self.files, self.members) if use_labels else None
        self._raw_shape = (len(self.members), channels, height, width)
        if first.dtype == np.uint8 and height * width * len(self.members) > MOST_SUM:
            PixelSum(self.files.path, self.files.size).add(height * width * len(self.members))
        self.dtype = first.dtype
        name = name or PurePosixPath(self.files.path).stem
        super().__init__(name, self._raw_shape, labels, max_size, random_seed, xflip)
        self._cached: np.ndarray | None = None
        if cache:
            self._cached = np.empty(self._raw_shape, dtype=self.dtype)
            self._is_cached = np.zeros(len(self.members), dtype=bool)

    def raw_images(self, raw_indices: np.ndarray) -> np.ndarray:
        """Images ``(N, C, H, W)``.

        Raises:
            UserError: An image is damaged, or differs from the first one in size or channels.
        """
        if self._cached is None:
            batch = np.empty((len(raw_indices), *self._raw_shape[1:]), dtype=self.dtype)
            for row, index in enumerate(raw_indices):
                batch[row] = self._checked(int(index))
            return batch
        for index in raw_indices[~self._is_cached[raw_indices]]:
            self._cached[index] = self._checked(int(index))
            self._is_cached[index] = True
        return self._cached[raw_indices]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the archive's bytes (of names and contents for a folder)."""
        return self.files.digest()

    def _checked(self, index: int) -> np.ndarray:
        image = self._decode(index, (self._raw_shape[3], self._raw_shape[2]))
        if image.shape != self._raw_shape[1:] or image.dtype != self.dtype:
            first, shape = self.files.name(int(self.members[0])), _describe(self._raw_shape[1:], self.dtype)
            fault = f"is {_describe(image.shape, image.dtype)}, but {first} is {shape}"
            remedy = "all images must be alike (sida data prepare makes them so)"
            raise UserError(self.files.where(int(self.members[index])), fault, remedy)
        return image

    def _decode(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray:
        member = int(self.members[index])
        return decode_image(self.files.read(member), self.files.where(member), size)


def image_members(files: Files) -> np.ndarray:
    """Indices int64 of the members that are images, sorted by name.

    Raises:
        UserError: There are no images.
    """
    found = with_suffix(files, PICTURES | ARRAYS)
    if len(found) == 0:
        kind = "archive" if isinstance(files, ZipFiles) else "folder"
        raise UserError(files.path, "holds no images (PNG or npy)", f"is it the right {kind}?")
    return found


def with_suffix(files: Files, suffixes: frozenset[str]) -> np.ndarray:
    """Indices int64 of the members whose names end in one of the suffixes, in any case."""
    lower = np.char.lower(files.names)
    masks = [np.char.endswith(lower, suffix.encode()) for suffix in sorted(suffixes)]
    return np.flatnonzero(np.any(masks, axis=0)).astype(np.int64)


def decode_image(content: bytes, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes a picture to uint8 ``(C, H, W)`` with 1 or 3 channels, or an npy file to its array.

    Args:
        content: The encoded image.
        where: Place named in errors.
        size: Expected width and height; a picture of another size is not decoded, and its array has only this size.

    Raises:
        UserError: The data are damaged, or the picture is neither 8-bit grey nor RGB.
    """
    if content.startswith(MAGIC):
        try:
            array = read_npy(io.BytesIO(content), len(content))
        except ValueError as error:
            raise UserError(where, f"damaged npy ({error})") from None
        if array.ndim != 3 or array.dtype not in (np.uint8, np.float32, np.float16) or not array.size:
            found = _describe(array.shape, array.dtype)
            raise UserError(where, f"npy must be (C, H, W) of uint8 or float32, got {found}")
        if array.dtype != np.uint8 and not np.isfinite(array).all():
            raise UserError(where, "holds NaN or infinities", "encode the image again")
        return array.astype(np.float32) if array.dtype == np.float16 else array
    picture = open_picture(content, where, size=size)
    if picture.mode not in ("L", "RGB"):
        raise UserError(where, f"picture mode {picture.mode}", "must be 8-bit grey or RGB (sida data prepare converts)")
    if size not in (None, picture.size):
        return np.broadcast_to(np.uint8(0), (len(picture.mode), picture.height, picture.width))
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_labels(files: Files, members: np.ndarray, anywhere: bool = False) -> np.ndarray | None:
    """Labels of image members from ``dataset.json``: int64 ``(N,)`` classes, float32 ``(N, D)`` vectors, or None.

    Args:
        files: Archive or folder.
        members: Indices of the images.
        anywhere: Whether to accept ``dataset.json`` in any folder, and labels by a picture's bare name, as in other
            people's samples.

    Raises:
        UserError: The file is broken, an image has no label, or labels are of several kinds.
    """
    index = files.find("dataset.json")
    if index is None and anywhere:
        nested = np.flatnonzero(np.char.endswith(files.names, b"/dataset.json"))
        index = min(map(int, nested), key=lambda place: len(files.names[place]), default=None)
    if index is None:
        return None
    where = files.where(index)
    content = files.read(index)
    if len(content) > (1 << 20) + _LABEL_BYTES * len(members):
        raise UserError(where, f"has {len(content):,} bytes for {len(members):,} images", "write it again")
    by_name = parse_labels(content, where)
    if by_name is None:
        return None
    picked = []
    for name in np.char.decode(files.names[members], "utf-8").tolist():
        label = by_name.get(name, by_name.get(PurePosixPath(name).name) if anywhere else None)
        if label is None:
            raise UserError(where, f"has no label for {name}", "add it, or set 'labels' to null there")
        picked.append(label)
    return label_array(picked, where)


def parse_labels(content: bytes, where: str) -> dict[str, Any] | None:
    """Labels by file name of a ``dataset.json``, or None if its labels are null.

    Raises:
        UserError: The content is broken.
    """
    try:
        entries = json.loads(content)["labels"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(where, "must be JSON with the key 'labels'", "write it again") from None
    if entries is None:
        return None
    found: dict[str, Any] = {}
    try:
        for name, label in entries:
            key = str(name).replace("\\", "/")
            if found.setdefault(key, label) != label:
                raise UserError(where, f"has two labels for {key}", "remove one")
    except (TypeError, ValueError, RecursionError):
        raise UserError(where, "labels must be pairs [file name, label]", "write it again") from None
    return found


def label_array(labels: list[Any], where: str) -> np.ndarray:
    """Checks labels and packs them: integers to int64 ``(N,)``, vectors of one length to float32 ``(N, D)``.

    Raises:
        UserError: Kinds are mixed, a class is negative, or vectors have different lengths.
    """
    if all(isinstance(label, int) and not isinstance(label, bool) for label in labels):
        if min(labels) < 0:
            raise UserError(where, f"class {min(labels)} is negative", "classes are 0, 1, 2, …")
        if max(labels) >= MAX_CLASSES:
            raise UserError(where, f"a class is beyond {MAX_CLASSES:,}", "number them 0, 1, 2, …")
        return np.array(labels, dtype=np.int64)
    try:
        vectors = np.array(labels, dtype=np.float32)
    except (TypeError, ValueError, OverflowError, RecursionError):
        vectors = np.empty(0, dtype=np.float32)
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise UserError(where, "labels must all be integers, or all be lists of numbers of the same length")
    return vectors


def image_name(index: int, suffix: str = ".png", prefix: str = "img") -> str:
    """Name of an image in the EDM format, with a folder for each thousand: ``00000/img00000000.png``."""
    return f"{index // 1000:05d}/{prefix}{index:08d}{suffix}"


def dataset_json(labels: Iterable[Sequence[Any]] | None) -> str:
    """Content of ``dataset.json`` from pairs of name and label, or from None without labels."""
    return json.dumps({"labels": None if labels is None else [list(pair) for pair in labels]})


def _describe(shape: tuple[int, ...], dtype: np.dtype) -> str:
    return f"{'×'.join(map(str, shape))} {dtype}"
