"""Images of unknown origin in arrays, which a child process converts: ``.npz``, ``.npy``, MNIST's format (idx),
pickles, files of ``torch.save`` and safetensors.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sida.data.archive import MAX_RATIO, SECONDS
from sida.data.label_files import MAX_CLASSES, WITHOUT_LABELS
from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.files.content import ARRAYS, START, first_bytes, holds_tensors, kind_of_file, refuse_text
from sida.files.convert import convert
from sida.files.ordinary import open_ordinary, size_on_disk

_IMAGES = ("arr_0", "images", "samples")
_CLASSES = ("arr_1", "labels", "y", "classes", "label", "targets")
#: Bytes of arrays that are read when the file is opened.
_SMALL = 64 << 20
#: Images of a part that is read at a time.
_AT_ONCE = 256
_IDX = re.compile(r"images[-.]idx3-ubyte(\.gz)?$")
#: The word "images" in names of files whose classes are in a file beside them (MNIST, KMNIST), and names of the images
#: of an npz with parts.
_IMAGES_WORD = re.compile(r"images(?=[-.]idx3-ubyte)|(?<![^-_])(?:imgs|images)(?=\.np[yz]$)")
_PARTS = re.compile(r"x_(train|test|val|valid)|(train|test|val|valid)_images")


class Arrays:
    """Arrays of numbers of a file by name (:func:`sida.files.foreign.arrays`); the array of an ``.npy`` or idx file
    under an empty name.

    Other values, such as texts and objects, are refused where they are needed.

    Args:
        path: The file, or the name of the file that ``content`` is from.
        content: The file's bytes; None reads them from the path.

    Attributes:
        path: The file.
        shapes: Shape by name.
        kinds: Type by name.
        unread: Fault of each other value, by name.

    Raises:
        UserError: The file is missing or damaged, or the array of an npy is not one of plain numbers.
    """

    def __init__(self, path: str | os.PathLike[str], content: bytes | None = None) -> None:
        self.path, self._content = path, content
        facts, self._stored = self._converted(None)
        self.shapes = {name: tuple(shape) for name, (shape, _) in facts["numbers"].items()}
        self.kinds = {name: np.dtype(kind) for name, (_, kind) in facts["numbers"].items()}
        self.unread: dict[str, str] = facts["unread"]

    def _converted(self, name: str | None) -> tuple[Any, dict[str, np.ndarray]]:
        """Facts, and the named array; without a name small arrays."""
        with contextlib.ExitStack() as stack:
            if self._content is None:
                stream: Any = stack.enter_context(open_ordinary(self.path))
                refuse_text(self.path, os.pread(stream.fileno(), START, 0))
            else:
                stream = stack.enter_context(tempfile.TemporaryFile())
                stream.write(self._content)
                stream.seek(0)
            size = size_on_disk(stream)
            # Zeros pack to a thousandth, so that a small npz could fill the disk.
            return convert(
                "sida.files.foreign:arrays", stream, self.path, name, size, _SMALL,
                memory=3 * size, seconds=size * SECONDS, output=max(1 << 30, MAX_RATIO * size),
            )  # fmt: skip

    def first(self, names: Iterable[str]) -> str | None:
        """The first of some names that the file has; None without any.

        Raises:
            UserError: The array is not one of plain numbers, or is damaged.
        """
        name = next((name for name in names if name in self.shapes or name in self.unread), None)
        if name in self.unread:
            where = f"{self.path}: array '{name}'" if name else self.path
            raise UserError(where, self.unread[name], "save an array of numbers")
        return name

    def read(self, name: str) -> np.ndarray:
        """An array, in memory or in a file that the system reads when it is used.

        Raises:
            UserError: It is cut off, or has far more bytes than the file.
        """
        if name not in self._stored:
            self._stored |= self._converted(name)[1]
        return self._stored[name]


class ImageArrays:
    """Images in an array: ``arr_0`` (or the only array) of an npz or of a file of tensors, an npy, or idx.
    An npz may have the parts of a data set, as Keras (``x_train``, ``y_train``) and MedMNIST (``train_images``,
    ``train_labels``) name them.

    Args:
        path: The file. An npz has classes in ``arr_1``, ``labels``, ``y`` or ``classes``, or in its part; an idx file,
            and KMNIST (``…-imgs.npz``), in a file next to it, named with ``labels`` instead of ``images``.
        labels: Whether to read classes.
        subset: ``train`` or ``test``, of the parts of an npz; None refuses several.

    Attributes:
        path: The file.
        count: Number of images.
        classes: Class of every image int64 (N,), or None.
        channels: 1 or 3.
        remark: Remark on the part that was taken, and on a file of classes; may be empty.
        has_statistics: Whether mean and covariance of other images stand beside them, as in ADM's ``VIRTUAL_*.npz``.

    Raises:
        UserError: The file is damaged, has no array of images or several parts, values are not bytes, or classes do not
            fit the images.
    """

    def __init__(self, path: str | Path, labels: bool = True, subset: str | None = None) -> None:
        self.path, self._files, self.remark = Path(path), [Path(path)], ""
        self._arrays, self._part = Arrays(self.path), ""
        self._member = self._image_array(subset)
        self._where = f"{self.path}[{self._member or self.path.name}]"
        self._stored = self._arrays.shapes[self._member]
        # Channels last, as most tools store images, unless the last axis cannot be channels.
        self._axis = 3 if len(self._stored) == 3 or self._stored[-1:] in ((1,), (3,)) else 1
        self._check()
        self.count, self.channels = self._stored[0], 1 if len(self._stored) == 3 else self._stored[self._axis]
        self.classes = self._classes() if labels else None
        self.has_statistics = self._arrays.first(["mu"]) is not None and self._arrays.first(["sigma"]) is not None

    def read(self, positions: slice | np.ndarray) -> np.ndarray:
        """Images of some positions, uint8 (N, C, H, W)."""
        images = self._arrays.read(self._member)[positions]
        images = images[:, None] if images.ndim == 3 else images
        return images.transpose(0, 3, 1, 2) if self._axis == 3 and len(self._stored) == 4 else images

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the pixels ``(H, W[, 3])`` of each image."""
        for begin in range(0, self.count, _AT_ONCE):
            for image in self.read(slice(begin, begin + _AT_ONCE)):
                yield image[0] if self.channels == 1 else image.transpose(1, 2, 0)

    def name(self, position: int) -> str:
        """File, array and index."""
        return f"{self._where}[{position}]"

    def digest(self) -> str:
        """SHA-256 of the file, and of a file of classes."""
        digests = [sha256_file(path) for path in self._files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def _image_array(self, subset: str | None) -> str:
        """Name of the array of images; sets part and remark."""
        arrays = [*self._arrays.shapes]
        others = [name for name in arrays if name not in _CLASSES]
        if (image_array := self._arrays.first((*_IMAGES, ""))) is not None:
            return image_array
        if len(others) == 1:
            return others[0]
        parts = {(match[1] or match[2]): name for name in arrays if (match := _PARTS.fullmatch(name))}
        if subset in parts or len(parts) == 1:
            self._part = str(subset) if subset in parts else next(iter(parts))
            self.remark = f"part {self._part} of {', '.join(parts)}" if len(parts) > 1 else ""
            return parts[self._part]
        if parts:
            remedy = "make an archive of one first: sida data prepare --subset train or test"
            raise UserError(self.path, f"holds the parts {', '.join(parts)} of a data set", remedy)
        if {"mu", "sigma"} <= {*arrays}:
            remedy = "name the images; a protocol takes statistics (reference: {kind: statistics, file: FILE})"
            raise UserError(self.path, "holds statistics (mu, sigma), no images", remedy)
        fault = f"has no array 'arr_0' of images (arrays of numbers: {', '.join(arrays) or 'none'})"
        raise UserError(self.path, fault, "name it so, and its classes 'arr_1'; a zip of pictures is named .zip")

    def _check(self) -> None:
        """Refuses an array that cannot be uint8 images with 1 or 3 channels."""
        dtype, axes = self._arrays.kinds[self._member], len(self._stored)
        if dtype != np.uint8:
            remedy = "save images as uint8 in 0..255, of [-1, 1] by (x * 127.5 + 128).clip(0, 255)"
            raise UserError(self._where, f"holds {dtype}", remedy)
        if axes == 3 and self._stored[2] == 3:
            fault = f"has shape {self._stored}, that of one picture (H, W, C)"
            raise UserError(self._where, fault, "save all images in one array (N, H, W, C)")
        if axes not in (3, 4) or 0 in self._stored or (axes == 4 and self._stored[self._axis] not in (1, 3)):
            raise UserError(
                self._where, f"has shape {self._stored}", "images must be (N, H, W, C) with 1 or 3 channels"
            )

    def _classes(self) -> np.ndarray | None:
        """Class of every image, int64 ``(N,)``, from the file or the file of classes beside it."""
        names = (f"y_{self._part}", f"{self._part}_labels") if self._part else _CLASSES
        class_array = self._arrays.first(names)
        label_file = self.path.with_name(_IMAGES_WORD.sub("labels", self.path.name).replace("idx3", "idx1"))
        if class_array is not None:
            classes, where = self._arrays.read(class_array), f"{self.path}[{class_array}]"
        elif _IMAGES_WORD.search(self.path.name) and label_file.is_file():
            other = Arrays(label_file)
            if len(other.shapes) != 1:
                raise UserError(label_file, "holds several arrays, not only classes", "move it, or put 'arr_1' here")
            self._files.append(label_file)
            self.remark = f"classes of {label_file.name}"
            classes, where = other.read(next(iter(other.shapes))), str(label_file)
        else:
            return None
        fit = classes.shape[:1] == (self.count,) and classes.size == self.count and classes.dtype.kind in "iu"
        if not fit or not 0 <= classes.min() <= classes.max() < MAX_CLASSES:
            fault = f"holds {classes.dtype} {classes.shape} as classes of {self.count:,} images, or no class"
            remedy = f"give a whole number below {MAX_CLASSES:,} for each image, or {WITHOUT_LABELS}"
            raise UserError(where, fault, remedy)
        return classes.reshape(-1).astype(np.int64)


def find_arrays(path: str | Path, subset: str | None = None, labels: bool = True) -> ImageArrays | None:
    """Images of an npz, npy, idx file or file of tensors, or of a folder with idx files; None for anything else.

    Args:
        path: File or folder.
        subset: ``train`` or ``test``, of several idx files in a folder or parts of an npz; None refuses several.
        labels: Whether to read classes.

    Raises:
        UserError: Damaged arrays, or several files of images.
    """
    path = Path(path)
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if _IDX.search(file.name))
        fitting = [file for file in paths if subset is None or ("train" in file.name) == (subset == "train")]
        if not paths:
            return None
        if len(fitting) != 1:
            fault = f"holds {len(fitting)} files of {subset or 'its'} images ({', '.join(f.name for f in paths[:4])})"
            raise UserError(path, fault, "name one file")
        path = fitting[0]
    is_array = kind_of_file(path, first_bytes(path)) in ARRAYS or path.name.lower().endswith(".npy.gz")
    is_array = is_array or _IDX.search(path.name) is not None or holds_images(path)
    return ImageArrays(path, labels, subset) if is_array else None


def holds_images(path: str | Path) -> bool:
    """Whether a file of tensors holds images, not a network's weights: one array, or one of bytes or of their name.

    Bytes of two axes, such as CIFAR-100's rows, are images only beside no floats, since weights may be packed so.

    Raises:
        UserError: The file cannot be read.
    """
    if not holds_tensors(first_bytes(path)):
        return False
    file = Arrays(path)
    axes = 2 if any(dtype.kind == "f" for dtype in file.kinds.values()) else 1
    pixels = any(file.kinds[name] == np.uint8 and len(shape) > axes for name, shape in file.shapes.items())
    return pixels or not {*file.shapes, *file.unread}.isdisjoint(("", *_IMAGES))
