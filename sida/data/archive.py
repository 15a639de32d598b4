"""Data sets in the EDM format: images in a zip or folder, labels in ``dataset.json`` beside them.

    00000/img00000000.png … , dataset.json = {"labels": [["00000/img00000000.png", 3], …]} or {"labels": null}

PNG (or any lossless picture) or npy of shape (C, H, W). Source: NVlabs/edm:dataset_tool.py, training/dataset.py.

:class:`Files` are folders and archives of anyone: all their bytes are read behind the fence
(:mod:`sida.data.reader`).
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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import numpy as np

from sida.data.pictures import PICTURES
from sida.data.reader import MAX_CLASSES
from sida.errors import UserError, located
from sida.files.atomic import sha256_file
from sida.files.fenced import RESULT, Child
from sida.files.ordinary import open_ordinary, size_on_disk

ARRAYS = frozenset({".npy"})
#: Members of a request, and bytes of the images of an answer.
_MEMBERS, PART = 64, RESULT // 4
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
LEFT_OUT = "files were left out (hidden ones, those of a system, grids)"
_NETWORK = "a network"
#: Formats that are not read, by suffix, and by the first bytes of a file.
_FOREIGN = {
    ".parquet": "Parquet", ".arrow": "Arrow", ".tfrecord": "TFRecord", ".tfrecords": "TFRecord", ".h5": "HDF5",
    ".hdf5": "HDF5", ".mat": "MATLAB", ".rar": "RAR", ".7z": "7z", ".lmdb": "LMDB", ".mdb": "LMDB", ".beton": "FFCV",
    ".mp4": "a film",
} | dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors", ".pkl"), _NETWORK)  # fmt: skip
_MAGIC = {b"PAR1": ".parquet", b"\x89HDF": ".h5", b"Rar!": ".rar", b"7z\xbc\xaf": ".7z", b"ARROW1": ".arrow"}


class Files:
    """Named byte strings of a folder, a zip archive or a tar archive (also a packed one, or one with tars in it).

    Args:
        path: Archive or folder, whose content decides its kind; of a folder, hidden files are left out.
        workers: Children that read, at most.

    Attributes:
        path: As given.
        names: Relative names with ``/``, sorted.
        hidden: Number of files that no one means, such as ``__MACOSX/._a.png`` (:data:`HIDDEN`).
        is_folder: Whether it is a folder.

    Raises:
        UserError: The path is missing, one picture or of a format that is not read, or the archive is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], workers: int = 1) -> None:
        self.path, self.workers, self.is_folder = str(path), workers, Path(path).is_dir()
        self._places: np.ndarray | None = None
        self._plain: IO[bytes] | None = None
        self._idle: list[Child] = []
        refuse_picture(path)
        self.names: list[str]
        if self.is_folder:
            found = sorted(_walk(Path(path)))
            self.names = [name for name in found if not HIDDEN.search(name)]
            self.hidden = len(found) - len(self.names)
            return
        names, arrays = self._index()
        if names is None:
            self._unpack()
            names, arrays = self._index()
        self._places = arrays.get("places", np.empty((0, 5), np.int64))
        if not isinstance(names, list) or self._places.shape != (len(names), 5):
            raise UserError(path, "its reader gave no places of its members", "make it again")
        self.names = [str(name) for name in names]
        self.hidden = sum(HIDDEN.search(name) is not None for name in self.names)

    def _index(self) -> tuple[Any, dict[str, np.ndarray]]:
        with self._lent() as (child,):
            return child.ask("index", files=[self._open()], seconds=self.size * SECONDS)

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
        found = (i for i, name in enumerate(self.names) if name.lower().endswith(ends) and not HIDDEN.search(name))
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
        """Asks :class:`sida.data.reader.Reader` for members, so many at a time; yields members and answer in order.

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
        """Images of members in parts: facts and images of :meth:`sida.data.reader.Reader.images`."""
        count = 1
        if shape is not None:
            shape = [int(n) for n in shape]
            fits = PART // (math.prod(shape) * np.dtype(kind).itemsize)
            count = max(1, min(_MEMBERS, fits, -(-len(members) // (2 * self.workers))))
        for part, facts, arrays in self.ask("images", members, count, shape, kind, only_pictures):
            found = arrays.get("images")
            if found is not None and (len(found) > len(part) or list(found.shape[1:]) != facts["shape"]):
                raise UserError(self.path, "its reader gave other images than were asked for", "make it again")
            yield facts, found

    def labels(self, members: Sequence[int] | np.ndarray, anywhere: bool = False) -> np.ndarray | None:
        """Classes of members, int64 ``(N,)``, or None.

        They stand in ``dataset.json``, or in a file ``NAME.cls`` for each picture (WebDataset).

        Args:
            members: Indices of the images.
            anywhere: Whether to accept ``dataset.json`` in any folder, and labels by a picture's bare name, as in other
                people's samples.

        Raises:
            UserError: The file is broken, an image has no label, or a label is no class.
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
            return self._classes(wanted)
        place = None if self._places is None else self._places[index].tolist()
        files = [self._open(index)] if place is None else []
        try:
            with self._lent() as (child,):
                return _labels(child, files, place, wanted, anywhere)
        except UserError as error:
            raise UserError(self.where(index), error.fault, error.remedy) from None

    def _classes(self, pictures: list[str]) -> np.ndarray | None:
        """Classes of pictures in files ``NAME.cls``; None if there are none."""
        if not any(name.endswith(".cls") for name in self.names):
            return None
        found = []
        members = [(name, self.find(f"{os.path.splitext(name)[0]}.cls")) for name in pictures]
        for name, index in members:
            if index is None:
                raise UserError(self.path, f"has no class for {name} (.cls)", "add it, or say --labels none")
        for part, _, arrays in self.ask("contents", [index for _, index in members], _MEMBERS):  # type: ignore[misc]
            for place, index in enumerate(part):
                text = arrays[str(place)].tobytes()[:20].strip()
                if not text.isdigit() or int(text) >= MAX_CLASSES:
                    raise UserError(self.where(int(index)), f"holds {text!r}, no class", "write a whole number")
                found.append(int(text))
        return np.array(found, np.int64)

    def start(self) -> None:
        """Starts the children that will read a folder, so that they are ready when the first picture is asked for."""
        with self._lent():
            pass

    @contextlib.contextmanager
    def _lent(self, count: int = 1) -> Iterator[list[Child]]:
        """Children for one thread alone, started if need be; a fork has its own."""
        children: list[Child] = []
        while len(children) < count:
            try:
                found = self._idle.pop()
            except IndexError:
                self._idle += self._started(max(count, self.workers) - len(children))
                continue
            if found.alive and found.owner == os.getpid():
                children.append(found)
        try:
            yield children
        except BaseException:  # also of the caller: answers that nobody will take
            for child in children:
                child.close()
            raise
        self._idle += reversed(children)

    def _started(self, number: int) -> list[Child]:
        """Children that start side by side; before an archive's index, one."""
        if self._places is None and not self.is_folder:
            number = 1
        # A directory of a million members takes half a gigabyte.
        memory = 0 if self.is_folder else min(1 << 30, self.size // 8)
        children = [Child(READER, self.path, memory) for _ in range(number)]
        if self._places is not None:
            for child in children:
                child.send("attach", files=[self._open()])
            for child in children:
                child.receive()
        return children

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
                method, names, places.tolist(), *args, seconds=len(part) * _EACH + float(places[:, 1].sum()) * SECONDS
            )
            return
        files = [self._open(int(index)) for index in part]
        size = sum(os.fstat(file.fileno()).st_size for file in files)
        child.send(method, names, None, *args, files=files, seconds=len(part) * _EACH + size * SECONDS)


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


def read_labels_file(path: str | os.PathLike[str]) -> np.ndarray | None:
    """All labels of a ``dataset.json`` that lies alone, as :meth:`Files.labels`; None if they are null."""
    with Child(READER, path) as child:
        return _labels(child, [open_ordinary(path)], None, None, False)


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
    """Pixels uint8 ``(H, W, 3)`` of a picture.

    Raises:
        UserError: It is no ordinary file or no readable picture.
    """
    return ask_shared("rgb", path)[1]["pixels"]


def is_intact_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive (or npz) has members, and all have the bytes of their checksums."""
    try:
        return ask_shared("intact", path)[0] is True
    except UserError:
        return False


def ask_shared(method: str, path: str | os.PathLike[str]) -> tuple[Any, dict[str, np.ndarray]]:
    """Asks a child of this process that reads one file after the other."""
    stream = open_ordinary(path)
    try:
        return _shared(os.getpid()).ask(method, files=[stream], seconds=size_on_disk(stream) * SECONDS)
    except UserError as error:
        _shared.cache_clear()
        raise UserError(path, error.fault, error.remedy) from None


@functools.cache
def _shared(process: int) -> Child:
    return Child(READER, "a file")


def is_tools(folder: str) -> bool:
    """Whether a tool may have numbered a folder: its name is of five digits and more."""
    return len(folder) > 4 and folder.isdecimal()


def counted_by_tool(folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether folders hold the parts of one count, as those of tools do: equal sizes but the last, no name twice.

    Args:
        folders: Folder of each picture.
        names: Path of each picture, in order.
    """
    sizes = [*Counter(folders).values()]
    bare = {os.path.basename(name) for name in names}
    return len(bare) == len(names) and len({*sizes[:-1]}) <= 1 and sizes[-1] <= sizes[0]


def refuse_picture(path: str | os.PathLike[str]) -> None:
    """Refuses one picture in the place of a folder or archive of pictures.

    Raises:
        UserError: The path is a file with the suffix of a picture.
    """
    if Path(path).suffix.lower() in PICTURES and Path(path).is_file():
        raise UserError(path, "is one picture", "name the folder or archive that holds all of them")


def refuse_foreign(path: str | os.PathLike[str]) -> None:
    """Refuses one picture, a network, or a format that is not read, in the place of pictures.

    Raises:
        UserError: The path is such a file; the message names what it is.
    """
    refuse_picture(path)
    if not Path(path).is_file():
        return
    with open_ordinary(path) as stream:
        start = stream.read(8)
    suffix = next((named for magic, named in _MAGIC.items() if start.startswith(magic)), Path(path).suffix.lower())
    if suffix in _FOREIGN:
        remedy = _DRAW if _FOREIGN[suffix] == _NETWORK else _EXPORT
        raise UserError(path, f"is {_FOREIGN[suffix]}, which is not read as pictures", remedy)


_DRAW = "draw its images first (sida sample), or score it alone (sida score FILE)"
_EXPORT = "export its pictures into a folder for each class, or into an .npz"


def no_pictures(files: Files) -> UserError:
    """Error for a folder or archive without pictures, which names what it has instead."""
    suffixes = {PurePosixPath(name).suffix.lower() for name in files.names}
    if foreign := sorted(suffixes & _FOREIGN.keys()):
        return UserError(files.path, f"holds {_FOREIGN[foreign[0]]}, which is not read as pictures", _EXPORT)
    packed = (".tar", ".tgz", ".gz", ".zip", ".npz", ".npy")
    if inner := [name for name in files.names if name.lower().endswith(packed)]:
        return UserError(files.path, f"holds archives ({', '.join(inner[:3])})", "name one of them, or unpack them")
    kind = "folder" if files.is_folder else "archive"
    return UserError(files.path, f"holds no pictures ({', '.join(sorted(PICTURES))})", f"is it the right {kind}?")


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
        raise no_pictures(files)
    return found


def image_name(index: int, suffix: str = ".png", prefix: str = "img") -> str:
    """Name of an image in the EDM format, with a folder for each thousand: ``00000/img00000000.png``."""
    return f"{index // 1000:05d}/{prefix}{index:08d}{suffix}"


def dataset_json(labels: Iterable[Sequence[Any]] | None) -> str:
    """Content of ``dataset.json`` from pairs of name and label, or from None without labels."""
    return json.dumps({"labels": None if labels is None else [list(pair) for pair in labels]})
