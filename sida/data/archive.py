"""Images of anyone: all their bytes are read behind the fence (:mod:`sida.data.reader`).

:class:`Files` are encoded pictures in a folder or an archive; :class:`ImageArrays` are pixels in ``.npz``, ``.npy`` and
files of MNIST's format (idx). Data sets have the EDM format, images in a zip or folder with ``dataset.json``:

    00000/img00000000.png … , dataset.json = {"labels": [["00000/img00000000.png", 3], …]} or {"labels": null}

PNG (or any lossless picture) or npy of shape (C, H, W). Source: NVlabs/edm:dataset_tool.py, training/dataset.py.
"""

import bisect
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import resource
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import numpy as np

from sida.data.pictures import PICTURES
from sida.data.reader import MAX_CLASSES
from sida.errors import UserError, located
from sida.files.atomic import sha256_file
from sida.files.fenced import RESULT, Child, check_answer
from sida.files.ordinary import NETWORK, kind_of_file, open_ordinary, size_on_disk

#: Suffix of a file with the class of the picture of its name.
CLASS = ".cls"
_DRAW = "draw its images first (sida sample), or score it alone (sida score FILE)"
_EXPORT = "give its pictures in a folder, zip or tar; sida data prepare also reads npz and npy"
#: Members of a request, and bytes of the images of an answer.
MEMBERS, PART = 64, RESULT // 4
#: Processor time in seconds that a byte and a member explain.
SECONDS, _EACH = 1 / 2e6, 0.02
#: Bytes that any packed archive may unpack to, and largest plausible ratio: images hardly shrink, bombs shrink a lot.
FREE_BYTES, MAX_RATIO = 64 << 20, 20
READER = "sida.data.reader:Reader"
#: Files that are no pictures of a set: hidden ones, those of macOS, Windows and network drives, and grids of pictures.
HIDDEN = re.compile(
    r"(^|/)(\.(?!\.?/)|(__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information)/"
    r"|(Thumbs\.db|desktop\.ini|([^/]*[-_])?grid([-_]?\d+)?\.\w+|fakes(\d+|_init)\.\w+|reals\.\w+)$)"
)


class Files:
    """Named byte strings of a folder, a zip or a tar (also packed, or with tars in it), without :data:`HIDDEN` ones.

    Args:
        path: Archive or folder, whose content decides its kind.
        workers: Children that read, at most.

    Attributes:
        path: As given.
        names: Relative names with ``/``, sorted.
        left_out: Remark on files that were left out, or an empty string.
        is_folder: Whether it is a folder.

    Raises:
        UserError: The path is missing, of a format that is not read, or the archive is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], workers: int = 1) -> None:
        self.path, self.workers, self.is_folder = str(path), workers, Path(path).is_dir()
        self._archive: IO[bytes] | None = None
        self._idle: list[Child] = []
        if self.is_folder:
            found = sorted(_walk(Path(path)))
        else:
            self._archive = open_ordinary(path, "fetch or prepare the data set first (sida data prepare --help)")
            self._size = size_on_disk(self._archive)
            start = os.pread(self._archive.fileno(), 8, 0)
            kind = "one picture" if Path(path).suffix.lower() in PICTURES else kind_of_file(path, start)
            # Whether torch's zip archives are programs is seen by their members.
            if kind and not (kind == NETWORK and start.startswith(b"PK")):
                raise UserError(path, f"is {kind}, and no archive", _DRAW if kind == NETWORK else _EXPORT)
            found, places = self._index()
        kept = [index for index, name in enumerate(found) if not HIDDEN.search(name)]
        self.names = [found[index] for index in kept]
        self._places = None if self.is_folder else places[kept]
        hidden = len(found) - len(kept)
        self.left_out = f"{hidden:,} files were left out (hidden ones, those of a system, grids)" if hidden else ""

    def _index(self) -> tuple[list[str], np.ndarray]:
        """Names and places of an archive's members; a packed one is unpacked into a file without a name first."""
        # A directory of a million members takes half a gigabyte.
        with self._lent(1, min(1 << 30, self.size // 8)) as (child,):
            names, arrays = child.ask("index", files=[self._opened()], seconds=self.size * SECONDS)
            if names is None:
                self._archive = self._unpacked(child)
                names, arrays = child.ask("index", files=[self._opened()], seconds=self.size * SECONDS)
        places = arrays.get("places", np.empty((0, 5), np.int64))
        check_answer(isinstance(names, list) and places.shape == (len(names), 5), self.path)
        return [str(name) for name in names], places

    def _unpacked(self, child: Child) -> IO[bytes]:
        most = max(FREE_BYTES, MAX_RATIO * self.size)
        with tempfile.TemporaryFile() as plain:
            while len(piece := child.ask("unpack")[1]["bytes"]):
                plain.write(piece.tobytes())
                if plain.tell() > most:
                    raise UserError(self.path, f"unpacks to more than {most:,} bytes", "that is no data set")
            plain.flush()
            return open(f"/proc/self/fd/{plain.fileno()}", "rb")  # a child must not write

    def __len__(self) -> int:
        return len(self.names)

    def where(self, index: int) -> str:
        """Archive and member, for error messages."""
        return f"{self.path}: {self.names[index]}"

    def find(self, name: str) -> int | None:
        """Index of a member, or None."""
        index = bisect.bisect_left(self.names, name)
        return index if index < len(self) and self.names[index] == name else None

    def pictures(self, arrays: bool = False) -> np.ndarray:
        """Indices int64 of the pictures, sorted by name, and of arrays.

        Raises:
            UserError: There are none.
        """
        suffixes = (*PICTURES, ".npy") if arrays else tuple(PICTURES)
        found = [index for index, name in enumerate(self.names) if name.lower().endswith(suffixes)]
        if not found:
            kind = next(filter(None, map(kind_of_file, [self.path, *self.names])), "")
            fault = f"holds {kind}, and no pictures" if kind else f"holds no pictures ({', '.join(sorted(PICTURES))})"
            raise UserError(self.path, fault, _DRAW if kind == NETWORK else _EXPORT)
        return np.array(found, dtype=np.int64)

    @property
    def size(self) -> int:
        """Bytes of the archive up to its first hole, or of the folder's files."""
        if not self.is_folder:
            return self._size
        paths = (os.path.join(self.path, name) for name in self.names)
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))

    def read(self, index: int) -> bytes:
        """Content of a member.

        Raises:
            UserError: The member cannot be read, or its checksum is wrong.
        """
        ((_, _, arrays),) = self.ask("content", [index], 1)
        return arrays["content"].tobytes()

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
        """Asks :class:`sida.data.reader.Reader` for members, so many at a time; yields members and answer in order.

        Several children work on several parts at a time.
        """
        if self.is_folder:
            count = min(count, _files_at_once())
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

    def _send(self, child: Child, method: str, part: Sequence[int] | np.ndarray, args: tuple[Any, ...]) -> None:
        names = [self.names[int(index)] for index in part]
        places: Sequence[Sequence[int] | None]
        if self._places is None:
            places, files = [None] * len(names), [self._opened(name) for name in names]
            size = sum(os.fstat(file.fileno()).st_size for file in files)
        else:
            chosen = self._places[np.asarray(part, dtype=np.int64)]
            places, files, size = chosen.tolist(), [self._opened()], int(chosen[:, 1].sum())
        seconds = len(part) * _EACH + size * SECONDS
        child.send(method, [*zip(names, places)], *args, files=files, seconds=seconds)

    def _opened(self, name: str = "") -> BinaryIO:
        """The archive or, of a folder, one of its files, for a child."""
        if self._archive is not None:
            # Of the file, and not of this stream's buffer. Members are read from their places.
            os.lseek(self._archive.fileno(), 0, os.SEEK_SET)
            return os.fdopen(os.dup(self._archive.fileno()), "rb")
        with located(f"{self.path}: {name}"):
            return open_ordinary(os.path.join(self.path, name))

    @contextlib.contextmanager
    def _lent(self, count: int, memory: int = 0) -> Iterator[list[Child]]:
        """Children for one thread alone: idle ones of this process (a fork starts its own), and new ones."""
        children: list[Child] = []
        while len(children) < count:
            try:
                child = self._idle.pop()
            except IndexError:
                child = Child(READER, self.path, memory)
            if child.close.alive and child.owner == os.getpid():
                children.append(child)
        try:
            yield children
        except BaseException:  # also of the caller: answers that nobody will take
            for child in children:
                child.close()
            raise
        self._idle += children

    def images(
        self, members: Sequence[int] | np.ndarray, shape: Sequence[int] | None = None, kind: str | None = None,
        only_pictures: bool = False,
    ) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:  # fmt: skip
        """Images of members in parts: facts and images of :meth:`sida.data.reader.Reader.images`."""
        count = 1
        if shape is not None:
            shape = [int(n) for n in shape]
            fits = PART // (math.prod(shape) * np.dtype(kind).itemsize)
            count = max(1, min(MEMBERS, fits, -(-len(members) // (2 * self.workers))))
        for part, facts, arrays in self.ask("images", members, count, shape, kind, only_pictures):
            found = arrays.get("images")
            number = len(facts["lossy"])
            fit = found is None if number == 0 else found is not None and [*found.shape] == [number, *facts["shape"]]
            check_answer(fit and number + (facts["odd"] is not None) <= len(part), self.path)
            yield facts, found

    def labels(self, members: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Classes of members, int64 ``(N,)``, by ``dataset.json`` or a file ``NAME.cls`` for each picture (WebDataset).

        ``dataset.json`` lies at the root or in a folder that holds all members, whose names begin there. None: there is
        neither, or its labels are null.

        Raises:
            UserError: The file is broken, an image has no label, or a label is no class.
        """
        wanted = [self.names[int(member)] for member in members]
        folder = PurePosixPath(common_folder(wanted))
        for place in ("", *(f"{place}/" for place in (folder, *folder.parents) if place.name)):
            if (index := self.find(f"{place}dataset.json")) is not None:
                bare = [name.removeprefix(place) for name in wanted]
                ((_, _, arrays),) = self.ask("labels", [index], 1, bare)
                found = arrays.get("labels")
                check_answer(found is None or found.shape == (len(wanted),), self.where(index))
                return found
        return self._classes(wanted) if any(name.endswith(CLASS) for name in self.names) else None

    def _classes(self, pictures: Sequence[str]) -> np.ndarray:
        found = []
        for name in (os.path.splitext(picture)[0] + CLASS for picture in pictures):
            index = self.find(name)
            if index is None or not re.fullmatch(rb"[0-9]{1,5}", text := self.read(index)[:20].strip()):
                fault = f"{name} is missing or holds no class"
                raise UserError(self.path, fault, "write a whole number, or say --labels none")
            found.append(int(text))
        return np.array(found, np.int64)


def _files_at_once() -> int:
    """Files of a request: fewer than this process may have open (``ulimit -n``)."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MEMBERS if allowed == resource.RLIM_INFINITY else max(1, min(MEMBERS, allowed // 2 - 20))


def common_folder(names: Sequence[str]) -> str:
    """The folder, with ``/`` at its end, in which all names lie; empty for the root."""
    folder = os.path.commonpath([os.path.dirname(name) for name in (min(names), max(names))])
    return f"{folder}/" if folder else ""


def is_intact_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive (or npz) has members, and all have the bytes of their checksums.

    Raises:
        UserError: The file cannot be read, or a limit was exceeded, which says nothing of its content.
    """
    return ask_shared("intact", path)[0] is True


def ask_shared(method: str, path: str | os.PathLike[str], *args: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Asks a child of this process that reads one file after the other."""
    stream = open_ordinary(path)
    try:
        return _shared(os.getpid()).ask(method, *args, files=[stream], seconds=size_on_disk(stream) * SECONDS)
    except UserError as error:
        _shared.cache_clear()
        raise type(error)(path, error.fault, error.remedy) from None


@functools.cache
def _shared(process: int) -> Child:
    return Child(READER, "a file")


def _walk(folder: Path) -> Iterator[str]:
    """Names of the files of a folder, which may have links, without those of hidden folders."""
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
            try:
                name.encode()
            except UnicodeEncodeError:
                raise UserError(folder, f"the name {name!a} is not UTF-8", "rename the file") from None
            yield prefix + name


def _unreadable(error: OSError) -> None:
    raise UserError(error.filename, f"cannot be read ({error.strerror})", "its images would be left out")


_IMAGES, _CLASSES = ("arr_0", "images", "samples"), ("arr_1", "labels")
#: Images of a part that is read at a time.
_AT_ONCE = 256
_IDX = re.compile(r"images[-.]idx3-ubyte(\.gz)?$")


class Arrays:
    """Arrays of numbers of an ``.npz`` file, or the one of an ``.npy`` or idx file, whose name is empty.

    Attributes:
        path: The file.
        shapes: Shape by name.
        kinds: Type, and whether the first index runs fastest, by name.

    Raises:
        UserError: The file is missing or damaged, or an array is not one of plain numbers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, stream = path, open_ordinary(path)
        self._size, self._child = size_on_disk(stream), Child(READER, path)
        found, _ = self._child.ask("arrays", files=[stream], seconds=self._size * SECONDS)
        self.shapes = {name: tuple(shape) for name, (shape, _, _) in found.items()}
        self.kinds = {name: (np.dtype(kind), bool(fortran)) for name, (_, kind, fortran) in found.items()}

    def elements(self, name: str, begin: int, end: int) -> np.ndarray:
        """Elements of an array in the file's order; reading forwards is fast."""
        dtype, parts = self.kinds[name][0], [np.empty(0, self.kinds[name][0].newbyteorder("="))]
        for at in range(begin, end, step := PART // dtype.itemsize):
            count = min(step, end - at)
            parts.append(self._child.ask("rows", name, at, count)[1].get("rows", parts[0]))
            check_answer(len(parts[-1]) == count, self.path)
        return np.concatenate(parts)

    def read(self, name: str) -> np.ndarray:
        """A whole array.

        Raises:
            UserError: It is cut off, or claims more than the file explains.
        """
        count, (dtype, fortran) = math.prod(self.shapes[name]), self.kinds[name]
        claimed = count * dtype.itemsize
        if claimed > max(1 << 30, MAX_RATIO * self._size):
            raise UserError(f"{self.path}[{name}]", f"claims {claimed:,} bytes in {self._size:,}", "make it again")
        return self.elements(name, 0, count).reshape(self.shapes[name], order="F" if fortran else "C")


class ImageArrays:
    """Images in an array: ``arr_0`` (or the only array) of an npz, an npy, or idx; read as a stream.

    Args:
        path: The file. Classes are those of ``arr_1`` or ``labels`` of an npz; those of an idx file lie in a file
            beside it, named with ``labels`` in the place of ``images``.
        labels: Whether to read classes.

    Attributes:
        path: The file.
        count: Number of images.
        classes: Class of every image int64 (N,), or None.
        channels: 1 or 3.

    Raises:
        UserError: A damaged file, no array of images, values that are no bytes, or classes that do not fit.
    """

    def __init__(self, path: str | Path, labels: bool = True) -> None:
        self.path, self._files = Path(path), [Path(path)]
        self._arrays = Arrays(self.path)
        self._member = self._chosen()
        self._where = f"{self.path}[{self._member or self.path.name}]"
        self._stored = self._arrays.shapes[self._member]
        self._axis = 3 if len(self._stored) == 3 or self._stored[-1:] in ((1,), (3,)) else 1
        self._check()
        self.count, self.channels = self._stored[0], 1 if len(self._stored) == 3 else self._stored[self._axis]
        self.classes = self._classes() if labels else None

    def read(self, begin: int, end: int) -> np.ndarray:
        """Images ``begin … end − 1``, uint8 (N, C, H, W); a step backwards starts the stream again."""
        each = math.prod(self._stored[1:])
        images = self._arrays.elements(self._member, begin * each, end * each).reshape(-1, *self._stored[1:])
        if images.ndim == 3:
            return images[:, None]
        return images.transpose(0, 3, 1, 2) if self._axis == 3 else images

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the pixels ``(H, W[, 3])`` of each image."""
        for begin in range(0, self.count, _AT_ONCE):
            for image in self.read(begin, min(begin + _AT_ONCE, self.count)):
                yield image[0] if self.channels == 1 else image.transpose(1, 2, 0)

    def name(self, position: int) -> str:
        """File, array and index."""
        return f"{self._where}[{position}]"

    def digest(self) -> str:
        """SHA-256 of the file, and of a file of classes."""
        digests = [sha256_file(path) for path in self._files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return math.prod(self._stored)

    def _chosen(self) -> str:
        arrays = [*self._arrays.shapes]
        others = [name for name in arrays if name not in _CLASSES]
        named = [name for name in _IMAGES if name in arrays]
        if not named and len(others) != 1:
            fault = f"has no array 'arr_0' of images (arrays: {', '.join(arrays) or 'none'})"
            raise UserError(self.path, fault, "name it so, and its classes 'arr_1'")
        return [*named, *others][0]

    def _check(self) -> None:
        (dtype, fortran), axes = self._arrays.kinds[self._member], len(self._stored)
        if dtype != np.uint8:
            remedy = "save images as uint8 in 0..255, of [-1, 1] by (x * 127.5 + 128).clip(0, 255)"
            raise UserError(self._where, f"holds {dtype}", remedy)
        if axes not in (3, 4) or 0 in self._stored or (axes == 4 and self._stored[self._axis] not in (1, 3)) or fortran:
            fault = f"has shape {self._stored}{' in the order of Fortran' if fortran else ''}"
            raise UserError(self._where, fault, "images must be (N, H, W, C) in the order of C, with 1 or 3 channels")

    def _classes(self) -> np.ndarray | None:
        known = [name for name in _CLASSES if name in self._arrays.shapes]
        beside = self.path.with_name(self.path.name.replace("images", "labels").replace("idx3", "idx1"))
        if known:
            found, where = self._arrays.read(known[0]), f"{self.path}[{known[0]}]"
        elif _IDX.search(self.path.name) and beside.is_file():
            self._files.append(beside)
            found, where = Arrays(beside).read(""), str(beside)
        else:
            return None
        fit = found.shape[:1] == (self.count,) and found.size == self.count and found.dtype.kind in "iu"
        if not fit or not 0 <= found.min() <= found.max() < MAX_CLASSES:
            fault = f"holds {found.dtype} {found.shape} as classes of {self.count:,} images, or no class"
            remedy = f"give a whole number below {MAX_CLASSES:,} for each image, or leave classes out"
            raise UserError(where, fault, remedy)
        return found.reshape(-1).astype(np.int64)


def find_arrays(path: str | Path, subset: str | None = None, labels: bool = True) -> ImageArrays | None:
    """Images of an npz, npy or idx file, or of a folder with idx files; None for anything else.

    Args:
        path: File or folder.
        subset: ``train`` or ``test``, of several idx files in a folder; None refuses several.
        labels: Whether to read classes.

    Raises:
        UserError: Damaged arrays, or several files of images.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _IDX.search(file.name))
        fitting = [file for file in found if subset is None or ("train" in file.name) == (subset == "train")]
        if not found:
            return None
        if len(fitting) != 1:
            fault = f"holds {len(fitting)} files of {subset or 'its'} images ({', '.join(f.name for f in found[:4])})"
            raise UserError(path, fault, "name one file")
        path = fitting[0]
    return ImageArrays(path, labels) if path.suffix in (".npz", ".npy") or _IDX.search(path.name) else None


def image_name(index: int, suffix: str = ".png", prefix: str = "img") -> str:
    """Name of an image in the EDM format, with a folder for each thousand: ``00000/img00000000.png``."""
    return f"{index // 1000:05d}/{prefix}{index:08d}{suffix}"


def dataset_json(labels: Iterable[Sequence[Any]] | None) -> str:
    """Content of ``dataset.json`` from pairs of name and label, or from None without labels."""
    return json.dumps({"labels": None if labels is None else [list(pair) for pair in labels]})
