"""Data sets in the EDM format: images in a zip or folder, labels in ``dataset.json`` beside them.

    00000/img00000000.png … , dataset.json = {"labels": [["00000/img00000000.png", 3], …]} or {"labels": null}

PNG (or any lossless picture) or npy of shape (C, H, W). Source: NVlabs/edm:dataset_tool.py, training/dataset.py.

:class:`Files` and :class:`Arrays` are folders, archives and arrays of anyone: all their bytes are read behind the fence
(:mod:`sida.data.pictures`).
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import numpy as np

from sida.data.dataset import Dataset
from sida.data.pictures import MAX_CLASSES, PICTURES
from sida.errors import UserError, located
from sida.files.atomic import sha256_file
from sida.files.fenced import RESULT, Child
from sida.files.ordinary import open_ordinary, size_on_disk

ARRAYS = frozenset({".npy"})
#: Members of a request, and bytes of the images of an answer.
_MEMBERS, _PART = 64, RESULT // 4
#: Processor time in seconds that a byte and a member explain.
_BYTE, _MEMBER = 1 / 2e6, 0.02
#: Bytes that any packed archive may unpack to, and largest plausible ratio: images hardly shrink, bombs shrink a lot.
FREE_BYTES, MAX_RATIO = 64 << 20, 20
_READER = "sida.data.pictures:Reader"
_HIDDEN = re.compile(r"(^|/)(\.(?!\.?/)|__MACOSX/)")


class Files:
    """Named byte strings of a folder, a zip archive or a tar archive (also a packed one, or one with tars in it).

    Args:
        path: Archive or folder, whose content decides its kind; of a folder, hidden files are left out.
        workers: Children that read, at most.

    Attributes:
        path: As given.
        names: Relative names with ``/``, sorted.
        is_folder: Whether it is a folder.

    Raises:
        UserError: The path is missing or one picture, or the archive is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], workers: int = 1) -> None:
        self.path, self.workers, self.is_folder = str(path), workers, Path(path).is_dir()
        self._places: np.ndarray | None = None
        self._plain: IO[bytes] | None = None
        self._idle: list[Child] = []
        refuse_picture(path)
        self.names: list[str]
        if self.is_folder:
            self.names = sorted(_walk(Path(path)))
            return
        names, arrays = self._index()
        if names is None:
            self._unpack()
            names, arrays = self._index()
        self._places = arrays.get("places", np.empty((0, 5), np.int64))
        if not isinstance(names, list) or self._places.shape != (len(names), 5):
            raise UserError(path, "its reader gave no places of its members", "make it again")
        self.names = [str(name) for name in names]

    def _index(self) -> tuple[Any, dict[str, np.ndarray]]:
        with self._lent() as (child,):
            return child.ask("index", files=[self._open()], seconds=self.size * _BYTE)

    def _unpack(self) -> None:
        """Unpacks the archive into a file without a name: members are then read in any order."""
        most = max(FREE_BYTES, MAX_RATIO * self.size)
        self._plain = plain = tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as this
        with self._lent() as (child,):  # the one with the index
            while len(piece := child.ask("unpack")[1]["bytes"]):
                plain.write(piece.tobytes())
                if plain.tell() > most:
                    raise UserError(self.path, f"unpacks to more than {most:,} bytes", "that is no data set")
        plain.flush()

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": [], "_plain": None, "_packed": self._plain is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.pop("_packed")
        self.__dict__.update(state)
        if packed:
            self._index()
            self._unpack()

    def where(self, index: int) -> str:
        """Archive and member, for error messages."""
        return f"{self.path}: {self.names[index]}"

    def find(self, name: str) -> int | None:
        """Index of a member, or None."""
        index = bisect.bisect_left(self.names, name)
        return index if index < len(self) and self.names[index] == name else None

    def with_suffix(self, suffixes: Iterable[str]) -> np.ndarray:
        """Indices int64 of the members whose names end in one of the suffixes, in any case.

        Hidden files are left out, and those in ``__MACOSX``, where macOS keeps a second file for each of a zip.
        """
        ends = tuple(suffixes)
        found = (i for i, name in enumerate(self.names) if name.lower().endswith(ends) and not _HIDDEN.search(name))
        return np.array([*found], dtype=np.int64)

    @property
    def size(self) -> int:
        """Bytes of the archive, or of the folder's files."""
        paths = [os.path.join(self.path, name) for name in self.names] if self.is_folder else [self.path]
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))

    def read(self, index: int) -> bytes:
        """Content of a member.

        Raises:
            UserError: The member cannot be read, or its checksum is wrong.
        """
        ((_, _, arrays),) = self.ask("contents", [index], 1)
        return arrays["0"].tobytes()

    def digest(self, members: Iterable[int] | None = None) -> str:
        """SHA-256 that identifies the whole content.

        It is that of the archive's bytes; of a folder, it goes over names and contents, in order, of all members or of
        the given ones.
        """
        if not self.is_folder:
            return sha256_file(self.path)
        total = hashlib.sha256()
        for name in self.names if members is None else (self.names[index] for index in members):
            with open_ordinary(os.path.join(self.path, name)) as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
                total.update(f"{name}\0{stream.tell()}\0".encode() + content)
        return total.hexdigest()

    def ask(
        self, method: str, members: Sequence[int] | np.ndarray, count: int, *args: Any
    ) -> Iterator[tuple[Sequence[int] | np.ndarray, Any, dict[str, np.ndarray]]]:
        """Asks :class:`sida.data.pictures.Reader` for members, so many at a time; yields members and answer in order.

        Several children work on several parts at a time.
        """
        parts = [members[at : at + count] for at in range(0, len(members), count)]
        with self._lent(max(1, min(self.workers, len(parts)))) as children:
            for part, child in zip(parts, children):
                self._send(child, method, part, args)
            for number, part in enumerate(parts):
                child = children[number % len(children)]
                value, arrays = child.receive()
                if number + len(children) < len(parts):
                    self._send(child, method, parts[number + len(children)], args)
                yield part, value, arrays

    def images(
        self, members: Sequence[int] | np.ndarray, shape: Sequence[int] | None = None, kind: str | None = None,
        only_pictures: bool = False,
    ) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:  # fmt: skip
        """Images of members in parts: facts and images of :meth:`sida.data.pictures.Reader.images`."""
        count = 1
        if shape is not None:
            shape = [int(n) for n in shape]
            fits = _PART // (math.prod(shape) * np.dtype(kind).itemsize)
            count = max(1, min(_MEMBERS, fits, -(-len(members) // (2 * self.workers))))
        for part, facts, arrays in self.ask("images", members, count, shape, kind, only_pictures):
            found = arrays.get("images")
            if found is not None and (len(found) > len(part) or list(found.shape[1:]) != facts["shape"]):
                raise UserError(self.path, "its reader gave other images than were asked for", "make it again")
            yield facts, found

    def labels(self, members: Sequence[int] | np.ndarray, anywhere: bool = False) -> np.ndarray | None:
        """Labels of members from ``dataset.json``: int64 ``(N,)`` classes, float32 ``(N, D)`` vectors, or None.

        Args:
            members: Indices of the images.
            anywhere: Whether to accept ``dataset.json`` in any folder, and labels by a picture's bare name, as in other
                people's samples.

        Raises:
            UserError: The file is broken, an image has no label, or labels are of several kinds.
        """
        index = self.find("dataset.json")
        if index is None and anywhere:
            nested = [i for i, name in enumerate(self.names) if name.endswith("/dataset.json")]
            index = min(nested, key=lambda place: len(self.names[place]), default=None)
        wanted = [self.names[int(member)] for member in members]
        if index is None:
            # In a folder that holds everything, as tools pack one.
            folder = PurePosixPath(common_folder(wanted)) if wanted else PurePosixPath()
            for prefix in (f"{place}/" for place in (folder, *folder.parents) if place.name):
                if (index := self.find(f"{prefix}dataset.json")) is not None:
                    wanted = [name.removeprefix(prefix) for name in wanted]
                    break
        if index is None:
            return None
        place = None if self._places is None else self._places[index].tolist()
        files = [self._open(index)] if place is None else []
        try:
            with self._lent() as (child,):
                return _labels(child, files, place, wanted, anywhere)
        except UserError as error:
            raise UserError(self.where(index), error.fault, error.remedy) from None

    def close(self) -> None:
        """Ends the children that wait; the next request starts others."""
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def _lent(self, count: int = 1) -> Iterator[list[Child]]:
        """Children for one thread alone, started if need be; a fork has its own."""
        children: list[Child] = []
        while len(children) < count:
            try:
                found = self._idle.pop()
            except IndexError:
                found = self._started()
            if found.alive and found.owner == os.getpid():
                children.append(found)
        try:
            yield children
        except BaseException:  # also of the caller: answers that nobody will take
            for child in children:
                child.close()
            raise
        self._idle += reversed(children)

    def _started(self) -> Child:
        # A directory of a million members takes half a gigabyte.
        child = Child(_READER, self.path, 0 if self.is_folder else min(1 << 30, self.size // 8))
        if self._places is not None:
            child.ask("attach", files=[self._open()])
        return child

    def _open(self, index: int | None = None) -> BinaryIO:
        """The archive or, of a folder, one of its files; with a position of its own."""
        if index is not None:
            with located(self.where(index)):
                return open_ordinary(os.path.join(self.path, self.names[index]))
        if self._plain is not None:
            return open(f"/proc/self/fd/{self._plain.fileno()}", "rb")
        return open_ordinary(self.path, "fetch or prepare the data set first (sida data prepare --help)")

    def _send(self, child: Child, method: str, part: Sequence[int] | np.ndarray, args: tuple[Any, ...]) -> None:
        names = [self.names[int(index)] for index in part]
        if self._places is not None:
            places = self._places[np.asarray(part, dtype=np.int64)]
            child.send(
                method, names, places.tolist(), *args, seconds=len(part) * _MEMBER + float(places[:, 1].sum()) * _BYTE
            )
            return
        files = [self._open(int(index)) for index in part]
        size = sum(os.fstat(file.fileno()).st_size for file in files)
        child.send(method, names, None, *args, files=files, seconds=len(part) * _MEMBER + size * _BYTE)


def _labels(
    child: Child, files: list[BinaryIO], place: list[int] | None, wanted: list[str] | None, anywhere: bool
) -> np.ndarray | None:
    known, arrays = child.ask("labels", place, wanted, anywhere, files=files)
    if known and len(arrays["labels"]) == len(wanted or arrays["labels"]):
        return arrays["labels"]
    return None


def common_folder(names: Sequence[str]) -> str:
    """The folder, with ``/`` at its end, in which all names lie; empty for the root."""
    folder = os.path.commonpath([os.path.dirname(name) for name in (min(names), max(names))])
    return f"{folder}/" if folder else ""


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """An array uint8 of MNIST's format, also packed by gzip.

    Raises:
        UserError: It is no ordinary file or no whole file of that format.
    """
    return _ask_shared("idx", path)[1]["data"]


def read_labels_file(path: str | os.PathLike[str]) -> np.ndarray | None:
    """All labels of a ``dataset.json`` that lies alone, as :meth:`Files.labels`; None if they are null."""
    with Child(_READER, path) as child:
        return _labels(child, [open_ordinary(path)], None, None, False)


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
    """Pixels uint8 ``(H, W, 3)`` of a picture.

    Raises:
        UserError: It is no ordinary file or no readable picture.
    """
    return _ask_shared("rgb", path)[1]["pixels"]


def is_intact_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive (or npz) has members, and all have the bytes of their checksums."""
    try:
        return _ask_shared("intact", path)[0] is True
    except UserError:
        return False


def _ask_shared(method: str, path: str | os.PathLike[str]) -> tuple[Any, dict[str, np.ndarray]]:
    """Asks a child of this process that reads one file after the other."""
    stream = open_ordinary(path)
    try:
        return _shared(os.getpid()).ask(method, files=[stream], seconds=size_on_disk(stream) * _BYTE)
    except UserError as error:
        _shared.cache_clear()
        raise UserError(path, error.fault, error.remedy) from None


@functools.cache
def _shared(process: int) -> Child:
    return Child(_READER, "a file")


def refuse_picture(path: str | os.PathLike[str]) -> None:
    """Refuses one picture in the place of a folder or archive of pictures.

    Raises:
        UserError: The path is a file with the suffix of a picture.
    """
    if Path(path).suffix.lower() in PICTURES and Path(path).is_file():
        raise UserError(path, "is one picture", "name the folder or archive that holds all of them")


def _walk(folder: Path) -> Iterator[str]:
    """Names of the files of a folder, which may have links, without hidden ones."""
    seen: dict[tuple[int, int], str] = {}
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(root).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        # A link to a folder above would yield each image many times.
        status = os.stat(root)
        other = seen.setdefault((status.st_dev, status.st_ino), root)
        if other != root:
            raise UserError(root, f"is a link to, or from, {other}", "remove one, its images would count twice")
        for name in files:
            if not name.startswith("."):
                try:
                    name.encode()
                except UnicodeEncodeError:
                    raise UserError(folder, f"the name {name!a} is not UTF-8", "rename the file") from None
                yield prefix + name


def _unreadable(error: OSError) -> None:
    raise UserError(error.filename, f"cannot be read ({error.strerror})", "its images would be left out")


class Arrays:
    """Arrays of numbers of an ``.npz`` file, or the one of an ``.npy`` file, whose name is empty.

    Attributes:
        path: The file.
        shapes: Shape by name.
        dtypes: Type by name.
        fortran: Names of the arrays whose first index runs fastest.

    Raises:
        UserError: The file is missing or damaged, or an array is not one of plain numbers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        stream = open_ordinary(path)
        self._size = size_on_disk(stream)
        self._child = Child(_READER, path)
        found, _ = self._child.ask("arrays", files=[stream], seconds=self._size * _BYTE)
        self.shapes = {name: tuple(shape) for name, (shape, _, _) in found.items()}
        self.dtypes = {name: np.dtype(kind) for name, (_, kind, _) in found.items()}
        self.fortran = {name for name, (*_, fortran) in found.items() if fortran}

    def elements(self, name: str, begin: int, end: int) -> np.ndarray:
        """Elements of an array in the file's order; reading forwards is fast."""
        step = _PART // self.dtypes[name].itemsize
        parts = []
        for at in range(begin, end, step):
            rows = self._child.ask("rows", name, at, min(step, end - at))[1].get("rows")
            if rows is None or len(rows) != min(step, end - at):
                raise UserError(self.path, "its reader gave other numbers than were asked for", "make it again")
            parts.append(rows)
        return np.concatenate(parts) if parts else np.empty(0, self.dtypes[name].newbyteorder("="))

    def read(self, name: str) -> np.ndarray:
        """A whole array.

        Raises:
            UserError: It is cut off, or claims more than the file explains.
        """
        count = math.prod(self.shapes[name])
        claimed = count * self.dtypes[name].itemsize
        if claimed > max(1 << 30, MAX_RATIO * self._size):
            raise UserError(f"{self.path}[{name}]", f"claims {claimed:,} bytes in {self._size:,}", "make it again")
        order: Any = "F" if name in self.fortran else "C"
        return self.elements(name, 0, count).reshape(self.shapes[name], order=order)


def image_array(file: Arrays) -> tuple[str, bool, np.ndarray | None]:
    """The array of images of a file, and its classes.

    Images are uint8 ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels in ``arr_0``, ``images``,
    ``samples`` or the only array; classes are in ``arr_1`` or ``labels``.

    Returns:
        Its name, whether its channels are last, and classes int64 ``(N,)`` or None.

    Raises:
        UserError: There is no such array, or its type, its shape or the classes do not fit.
    """
    known = next((name for name in ("arr_1", "labels") if name in file.shapes), None)
    others = [name for name in file.shapes if name not in ("arr_1", "labels")]
    named = [name for name in ("arr_0", "images", "samples") if name in others]
    if not named and len(others) != 1:
        names = ", ".join(file.shapes) or "none"
        raise UserError(
            file.path, f"has no array 'arr_0' of images (arrays: {names})", "save the images under this name"
        )
    name = [*named, *others][0]
    where, shape = f"{file.path}[{name or Path(file.path).name}]", file.shapes[name]
    if file.dtypes[name] != np.uint8:
        raise UserError(where, *_remedy_of_type(file, name))
    last = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if len(shape) not in (3, 4) or 0 in shape[1:] or not (last or shape[1] in (1, 3)):
        raise UserError(where, f"has shape {shape}", "images must be (N, H, W, C) with 1 or 3 channels")
    if known is None:
        return name, last, None
    place, classes = f"{file.path}[{known}]", file.read(known).reshape(-1)
    if len(classes) != shape[0]:
        raise UserError(file.path, f"{len(classes)} labels for {shape[0]} images", "make it again")
    if not np.issubdtype(classes.dtype, np.integer):
        raise UserError(place, f"classes must be integers, got {classes.dtype}", "save them so, or leave them out")
    if classes.size and not 0 <= classes.min() <= classes.max() < MAX_CLASSES:
        raise UserError(place, f"a class is not between 0 and {MAX_CLASSES:,}", "make it again")
    return name, last, classes.astype(np.int64)


def _remedy_of_type(file: Arrays, name: str) -> tuple[str, str]:
    """Fault and remedy for values that are not bytes, inferred from the first values."""
    kind = file.dtypes[name]
    if not np.issubdtype(kind, np.floating):
        return f"holds {kind}", "save images as uint8 in 0..255"
    sample = file.elements(name, 0, min(math.prod(file.shapes[name]), 1 << 20))
    low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 0.0)
    span = f"holds {kind} from {low:.3g} to {high:.3g}"
    if -1.001 <= low < -1e-6 and high <= 1.001:
        return f"{span}, probably [-1, 1]", "save (x * 127.5 + 128).clip(0, 255).astype(np.uint8)"
    if low >= -1e-6 and high <= 1.001:
        return f"{span}, probably [0, 1]", "save (x * 255 + 0.5).clip(0, 255).astype(np.uint8)"
    return span, "save images as uint8 in 0..255"


class ImageArchive(Dataset):
    """Data set that reads images on demand from an archive or folder.

    Args:
        path: Archive or folder, or its open files.
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
        self.files = path if isinstance(path, Files) else Files(path)
        self.members = image_members(self.files)
        shape, self.dtype = first_image(self.files, self.members)
        channels, height, width = shape
        if height != width:
            remedy = "images must be square (sida data prepare --transform center-crop makes them so)"
            raise UserError(self.files.where(int(self.members[0])), f"is {width}×{height}", remedy)
        labels = self.files.labels(self.members) if use_labels else None
        self._raw_shape = (len(self.members), channels, height, width)
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
            return self._read(raw_indices)
        missing = np.unique(raw_indices[~self._is_cached[raw_indices]])
        if len(missing):
            self._cached[missing] = self._read(missing)
            self._is_cached[missing] = True
        return self._cached[raw_indices]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the archive's bytes (of names and contents for a folder)."""
        return self.files.digest()

    def _read(self, raw_indices: np.ndarray) -> np.ndarray:
        shape, done = self._raw_shape[1:], 0
        batch = np.empty((len(raw_indices), *shape), dtype=self.dtype)
        for facts, images in self.files.images(self.members[raw_indices], shape, self.dtype.str):
            if images is not None:
                batch[done : done + len(images)] = images
                done += len(images)
            if facts["odd"] is not None:
                index = int(self.members[raw_indices[done]])
                first = self.files.names[int(self.members[0])]
                fault = f"is {_describe(*facts['odd'])}, but {first} is {_describe(shape, self.dtype)}"
                remedy = "all images must be alike (sida data prepare makes them so)"
                raise UserError(self.files.where(index), fault, remedy)
        return batch


def first_image(files: Files, members: np.ndarray) -> tuple[tuple[int, int, int], np.dtype]:
    """Shape and type of the first image."""
    ((facts, _),) = files.images(members[:1])
    channels, height, width = facts["shape"]
    return (channels, height, width), np.dtype(facts["kind"])


def image_members(files: Files) -> np.ndarray:
    """Indices int64 of the members that are images, sorted by name.

    Raises:
        UserError: There are no images.
    """
    found = files.with_suffix(PICTURES | ARRAYS)
    if len(found) == 0:
        kind = "folder" if files.is_folder else "archive"
        raise UserError(files.path, "holds no images (PNG or npy)", f"is it the right {kind}?")
    return found


def image_name(index: int, suffix: str = ".png", prefix: str = "img") -> str:
    """Name of an image in the EDM format, with a folder for each thousand: ``00000/img00000000.png``."""
    return f"{index // 1000:05d}/{prefix}{index:08d}{suffix}"


def dataset_json(labels: Iterable[Sequence[Any]] | None) -> str:
    """Content of ``dataset.json`` from pairs of name and label, or from None without labels."""
    return json.dumps({"labels": None if labels is None else [list(pair) for pair in labels]})


def _describe(shape: Sequence[int], dtype: Any) -> str:
    return f"{'×'.join(map(str, shape))} {np.dtype(dtype)}"
