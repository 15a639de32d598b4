"""Encoded pictures of a folder or an archive, by name.

Data sets have the EDM format, images in a zip or folder with ``dataset.json``:

    00000/img00000000.png … , dataset.json = {"labels": [["00000/img00000000.png", 3], …]} or {"labels": null}

PNG (or any lossless picture) or npy of shape (C, H, W). Source: NVlabs/edm:dataset_tool.py, training/dataset.py.

Pictures of an archive as ``sida data prepare`` writes it are decoded here. All others are converted in parts, each by a
child process (:mod:`sida.files.convert`) with a reader of :mod:`sida.data.reader`.
"""

from __future__ import annotations

import bisect
import collections
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import struct
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from sida.data.label_files import LABEL_FILES, WITHOUT_LABELS, same_name
from sida.data.members import Location, unpacked
from sida.data.pictures import PICTURES, UNREAD, decode_own
from sida.errors import UserError, counted, errors_at, near_path
from sida.files.atomic import sha256_file
from sida.files.content import ARRAYS, ENCODE, LATENTS, NETWORK, START, kind_of_file, refuse_text
from sida.files.convert import convert
from sida.files.ordinary import UnreadableError, open_ordinary, ordinary_files, read_ordinary, size_on_disk

#: File that describes an archive's latents.
LATENTS_FILE = "latents.json"
#: Suffix of a file with the class of the picture of its name.
CLASS = ".cls"
_REMEDIES = {NETWORK: "draw its images first (sida sample), or score it alone (sida score FILE)", LATENTS: ENCODE}
_INNER = "unpack them, move them, or put all into one archive (tar -cf all.tar -C FOLDER .), whose tars are read"
_EXPORT = "give its pictures in a folder, zip or tar, or all images in one array of an npz or npy"
#: Members of a part, and bytes of its members or of its images.
MEMBERS, PART = 8192, 64 << 20
#: Processor time in seconds that a part may take for a byte and for a member.
SECONDS, _SECONDS_PER_FILE = 1 / 2e6, 0.02
#: Bytes to which any packed archive may unpack, and largest ratio of larger ones: images hardly shrink, bombs shrink
#: a lot. Largest file of a folder in bytes.
FREE_BYTES, MAX_RATIO, _LARGEST = 64 << 20, 20, 256 << 20
READER = "sida.data.reader"
#: Names of files that do not belong to a data set: files of macOS, Windows and network drives, and hidden ones.
_SYSTEM = re.compile(
    r"(^|/)((__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information)/|(Thumbs\.db|desktop\.ini|\.DS_Store)$)"
)
_HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".rar", ".7z")
#: Names of an archive as ``sida data prepare`` and ``encode`` write it.
_OURS = re.compile(r"\d{5}/img(-mean-std-)?\d{8}\.(png|npy)|dataset\.json|latents\.json")
#: A part, the value that its reader returned, and arrays.
Answer = tuple[Sequence[int] | np.ndarray, Any, dict[str, np.ndarray]]


class Files:
    """Named byte strings of a folder, a zip or a tar (also packed, or with tars in it).

    Opening lists all members, for which a packed archive is unpacked. Hidden files and files of operating systems are
    left out.

    Args:
        path: Archive or folder; its content decides its kind.
        workers: Largest number of children that read.

    Attributes:
        path: As given.
        names: Relative names with ``/``, sorted.
        left_out: Remark on files that were left out, with their number and reason, or an empty string.
        bare: Folders that are empty or hold only hidden files, sorted.
        is_folder: Whether it is a folder.
        is_own: Whether it is an archive as this package writes it, as far as it was read.

    Raises:
        UserError: The path is missing, of an unknown format, the archive is damaged, or there are links, pipes or
            devices.
    """

    def __init__(self, path: str | os.PathLike[str], workers: int = 1) -> None:
        self.path, self.workers, self.is_folder = str(path), workers, Path(path).is_dir()
        self._archive: IO[bytes] | None = None
        self.is_own = False
        if self.is_folder:
            self.names, folders, self._locations = _walk(self.path)
        else:
            self._archive = open_ordinary(path, "" if os.path.exists(path) else near_path(path))
            self._size = size_on_disk(self._archive)
            start = os.pread(self._archive.fileno(), START, 0)
            kind = "one picture" if Path(path).suffix.lower() in PICTURES else kind_of_file("", start)
            if not kind:
                refuse_text(path, start)
                kind = kind_of_file(path)
            # Only the members of a torch zip archive show whether it is a program.
            if kind and not (kind == NETWORK and start.startswith(b"PK")):
                prepare = f"make one of it: sida data prepare --source {shlex.quote(str(path))} --out ARCHIVE.zip"
                remedy = _REMEDIES.get(kind, prepare if kind in ARRAYS else _EXPORT)
                raise UserError(path, f"is {kind}, not an archive", remedy)
            self.names, folders, self._locations = self._own_index(start) or self._index(start)
        rules = {"of an operating system": _SYSTEM.search, "hidden": _HIDDEN.search}
        omitted = {
            reason: self._leave_out([i for i, n in enumerate(self.names) if rule(n)]) for reason, rule in rules.items()
        }
        parts = [f"{len(names):,} {reason}, such as {min(names)}" for reason, names in omitted.items() if names]
        count = sum(map(len, omitted.values()))
        self.left_out = f"{count:,} file{'s' * (count > 1)} left out ({'; '.join(parts)})" if count else ""
        folders = sorted({*folders, *(os.path.dirname(name) for name in omitted["hidden"])} - {""})
        folders = [folder for folder in folders if not (_HIDDEN.search(folder) or _SYSTEM.search(f"{folder}/"))]
        self.bare = [folder for folder in folders if not self._below(folder)]

    def _leave_out(self, indices: Collection[int]) -> list[str]:
        """Removes files from the list, and returns their names."""
        removed = {*indices}
        names = [self.names[index] for index in removed]
        if removed:
            remaining = [index for index in range(len(self)) if index not in removed]
            self.names = [self.names[index] for index in remaining]
            self._locations = self._locations[remaining]
        return names

    def _below(self, folder: str) -> range:
        """Indices of the files below a folder."""
        # Names are sorted, and "0" is the character after "/".
        return range(bisect.bisect_left(self.names, f"{folder}/"), bisect.bisect_left(self.names, f"{folder}0"))

    def _own_index(self, start: bytes) -> tuple[list[str], list[str], np.ndarray] | None:
        """As :meth:`_index` of an archive in the form that this package writes; None for any other."""
        assert self._archive is not None
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")].decode(errors="replace")
        if not start.startswith(b"PK\3\4") or not _OURS.fullmatch(name):
            return None
        try:
            members = sorted(zipfile.ZipFile(self._archive).infolist(), key=lambda info: info.filename)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
            return None
        names = [info.filename for info in members]
        plain = all(not info.flag_bits & 1 and info.compress_type == zipfile.ZIP_STORED for info in members)
        if not plain or not all(map(_OURS.fullmatch, names)) or len({*names}) < len(names):
            return None
        if sum(info.file_size for info in members) > self._size:
            return None
        self.is_own = True
        rows = [(i.header_offset, i.compress_size, i.file_size, i.CRC, i.compress_type) for i in members]
        return names, [], np.array(rows, np.int64).reshape(-1, 5)

    def _index(self, start: bytes) -> tuple[list[str], list[str], np.ndarray]:
        """Names, folders and locations of members; a packed archive is first unpacked into a nameless file."""
        assert self._archive is not None
        if start.startswith((b"\x1f\x8b", b"BZ", b"\xfd7")):
            most = max(FREE_BYTES, MAX_RATIO * self.size)
            plain = self._of_archive("unpack", output=most)[1]["bytes"]
            self._archive = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object
            self._archive.write(plain.data)
            self._archive.flush()
        # A directory of a million members takes half a gigabyte.
        _, arrays = self._of_archive("index", memory=min(1 << 30, self.size // 8))
        names, folders = (arrays[key].tobytes().decode(errors="surrogateescape") for key in ("names", "folders"))
        listed = names.split("\0") if len(arrays["locations"]) else []
        assert len(listed) == len(arrays["locations"])
        return listed, folders.split("\0"), arrays["locations"]

    def _of_archive(self, reader: str, **limits: int) -> tuple[Any, dict[str, np.ndarray]]:
        assert self._archive is not None
        os.lseek(self._archive.fileno(), 0, os.SEEK_SET)  # the child reads on from there
        return convert(f"{READER}:{reader}", self._archive, self.path, seconds=self.size * SECONDS, **limits)

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
            UserError: There are none, or archives among the files, whose pictures would be left out.
        """
        suffixes = (*PICTURES, ".npy") if arrays else tuple(PICTURES)
        indices = [index for index, name in enumerate(self.names) if name.lower().endswith(suffixes)]
        if inner := [name for name in self.names if name.lower().endswith(_ARCHIVES)]:
            pictures = f"{counted(len(indices), 'picture')} and" if indices else "no pictures, but"
            fault = f"holds {pictures} {counted(len(inner), 'archive')}, such as {inner[0]}"
            remedy = "unpack it, and the archives in it"
            if self.is_folder:
                remedy = (
                    _INNER
                    if all(name.lower().endswith(".tar") for name in inner)
                    else "unpack them, or name one of them"
                )
            raise UserError(self.path, fault, remedy)
        if not indices:
            kind = next(filter(None, map(kind_of_file, [self.path, *self.names])), "")
            if kind == NETWORK and self.is_folder:
                kind = next(filter(None, map(self._kind, self.names)))
            fault = f"holds {kind}, not pictures" if kind else f"holds no pictures ({', '.join(sorted(PICTURES))})"
            others = collections.Counter(PurePosixPath(name).suffix or name for name in self.names)
            counts = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(4))
            rest = "; ".join(filter(None, (self.left_out, f"other files: {counts}" if counts else "")))
            unread = not kind and not UNREAD.isdisjoint(map(str.lower, others))
            remedy = _REMEDIES.get(kind, "convert them to PNG" if unread else _EXPORT)
            if any(suffix in others for suffix in (".npz", ".npy")):
                remedy = f"{'name' if self.is_folder else 'unpack it, and name'} one of them, or join all in one array"
            raise UserError(self.path, f"{fault}; {rest}" if rest else fault, remedy)
        return np.array(indices, dtype=np.int64)

    def _kind(self, name: str) -> str:
        """Kind of a file of the folder by its first bytes and its name."""
        with open_ordinary(os.path.join(self.path, name)) as file:
            return kind_of_file(name, file.read(START))

    @property
    def size(self) -> int:
        """Bytes of the archive up to its first hole, or of the folder's files."""
        return int(self._locations[:, 1].sum()) if self.is_folder else self._size

    def read(self, members: Sequence[int]) -> Iterator[bytes]:
        """Yields the contents of members.

        Raises:
            UserError: A member cannot be read, or its checksum is wrong.
        """
        for _, sizes, arrays in self.ask("contents", members, MEMBERS):
            content, ends = arrays["contents"], [*itertools.accumulate(sizes)]
            yield from (content[end - size : end].tobytes() for size, end in zip(sizes, ends))

    def digest(self, members: Iterable[int] | None = None) -> str:
        """SHA-256 of an archive's bytes, or of names and contents of a folder's files, in order.

        Args:
            members: Indices of the files of a folder; None: all files.
        """
        if not self.is_folder:
            return sha256_file(self.path)
        return _digest(self.path, self.names if members is None else (self.names[index] for index in members))

    def ask(self, reader: str, members: Sequence[int] | np.ndarray, count: int, *args: Any) -> Iterator[Answer]:
        """Converts members by a reader of :mod:`sida.data.reader`, at most ``count`` at a time, in order.

        Several children work on several parts at a time, ahead of the caller.
        """
        parts = list(self._parts(np.asarray(members, np.int64), count))
        waiting: collections.deque[Future[Answer]] = collections.deque()
        with ThreadPoolExecutor(max(1, min(self.workers, len(parts)))) as pool:
            try:
                for part in parts:
                    waiting.append(pool.submit(self._converted, reader, part, args))
                    if len(waiting) > self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _parts(self, members: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """Parts of at most ``count`` members and :data:`PART` bytes, or of one member."""
        start = total = 0
        for index, size in enumerate(self._locations[members, 1].tolist()):
            if index > start and (total + size > PART or index - start == count):
                yield members[start:index]
                start, total = index, 0
            total += size
        if start < len(members):
            yield members[start:]

    def _converted(self, reader: str, part: np.ndarray, args: tuple[Any, ...]) -> Answer:
        rows = self._locations[part]
        listed: list[tuple[str, Location]] = [(self.names[i], row) for i, row in zip(part.tolist(), rows.tolist())]
        size = int(rows[:, 1].sum())
        seconds = len(part) * _SECONDS_PER_FILE + size * SECONDS
        if self._archive is not None:
            return part, *convert(f"{READER}:{reader}", self._archive, self.path, listed, *args, seconds=seconds)
        with tempfile.TemporaryFile() as joined:
            for position, (name, _) in enumerate(listed):
                with errors_at(self.path):
                    content = read_ordinary(os.path.join(self.path, name), _LARGEST)
                listed[position] = name, (joined.tell(), len(content), len(content), -1, 0)
                joined.write(content)
            joined.flush()
            return part, *convert(f"{READER}:{reader}", joined, self.path, listed, *args, seconds=seconds)

    def images(
        self, members: Sequence[int] | np.ndarray, shape: Sequence[int] | None = None, kind: str | None = None,
        only_pictures: bool = False,
    ) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:  # fmt: skip
        """Images of members in parts.

        Args:
            members: Indices of the members.
            shape: ``(C, H, W)`` that all have; None takes that of the first one.
            kind: Type of the images, likewise.
            only_pictures: Whether to refuse arrays.

        Yields:
            Facts and images (n, C, H, W) of :func:`sida.data.reader.images`.
        """
        answer = self._own_images(members, shape, kind, only_pictures) if self.is_own else None
        self.is_own = answer is not None
        if answer is not None:
            yield answer
            return
        count = 1
        if shape is not None:
            shape = [int(n) for n in shape]
            count = max(1, min(MEMBERS, PART // (math.prod(shape) * np.dtype(kind).itemsize)))
        for _, facts, arrays in self.ask("images", members, count, shape, kind, only_pictures):
            yield facts, arrays.get("images")

    def _own_images(
        self, members: Sequence[int] | np.ndarray, shape: Any, kind: str | None, only_pictures: bool
    ) -> tuple[dict[str, Any], np.ndarray | None] | None:
        """As :meth:`images`, of an archive of ours; None if one of them is not as this package writes it."""
        assert self._archive is not None
        file, images, differing = self._archive.fileno(), list[np.ndarray](), None
        for location in self._locations[np.asarray(members, np.int64)].tolist():
            try:
                image = decode_own(unpacked(file, *location), shape, only_pictures)
            except (UserError, ValueError, MemoryError, OverflowError, struct.error):
                return None
            if image is None:
                return None
            layout: list[Any] = [[*image.shape], image.dtype.str]
            if shape is None:
                shape, kind = layout
            if layout != [[*shape], np.dtype(kind).str]:
                differing = layout
                break
            images.append(image)
        facts = {"shape": [*shape], "kind": kind, "noted": [None] * len(images), "differing": differing}
        return facts, np.stack(images) if images else None

    def labels(self, members: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Classes of members, int64 ``(N,)``, by one of :data:`~sida.data.label_files.LABEL_FILES`, or by a file
        ``KEY.cls`` for each picture ``KEY.png`` or ``KEY.image.png`` (WebDataset).

        A file of labels lies at the root or in a folder that holds all members, and names them from there. None: there
        are no such files, or they have no labels.

        Raises:
            UserError: The file is broken, an image has no label, a label has no file or is not a class, or the file
                lies in a folder of some of the members.
        """
        names = [self.names[int(member)] for member in members]
        folder = PurePosixPath(common_folder(names))
        prefixes = ["", *(f"{prefix}/" for prefix in (folder, *folder.parents) if prefix.name)]
        for name in self.names:
            prefix, base = name.removesuffix(os.path.basename(name)), os.path.basename(name)
            if base in LABEL_FILES and prefix not in prefixes and any(other.startswith(prefix) for other in names):
                remedy = f"join such files into one at the top, with names from there, or {WITHOUT_LABELS}"
                raise UserError(self.path, f"{name} has labels of some pictures only", remedy)
        for prefix, file in itertools.product(prefixes, LABEL_FILES):
            if (index := self.find(prefix + file)) is not None:
                relative = [name.removeprefix(prefix) for name in names]
                wanted = {*names}
                others = [name.removeprefix(prefix) for name in self.names if name not in wanted]
                ((_, _, arrays),) = self.ask("labels", [index], 1, relative, others)
                return arrays.get("labels")
        return self._classes(names) if any(name.endswith(CLASS) for name in self.names) else None

    def latents(self) -> dict[str, str]:
        """Facts of a file ``latents.json`` at the root: ``kind``, and ``spread`` and ``encoder`` where it has them.

        Empty without the file.

        Raises:
            UserError: The file is broken.
        """
        if (index := self.find(LATENTS_FILE)) is None:
            return {}
        ((_, facts, _),) = self.ask("latents", [index], 1)
        return dict(facts)

    def _classes(self, pictures: Sequence[str]) -> np.ndarray:
        labels: list[int] = []
        used: dict[int, str] = {}
        indices = {same_name(name): index for index, name in enumerate(self.names) if name.endswith(CLASS)}
        for picture in pictures:
            # WebDataset's key of 0000.image.png is 0000.
            folder, base = os.path.split(picture)
            names = [os.path.join(folder, key + CLASS) for key in (os.path.splitext(base)[0], base.partition(".")[0])]
            name = next((name for name in names if same_name(name) in indices), names[0])
            labels.append(indices.get(same_name(name), -1))
            if labels[-1] < 0:
                raise self._no_class(name)
            if (other := used.setdefault(labels[-1], picture)) != picture:
                fault = f"{other} and {picture} have one class, of {name}"
                raise UserError(self.path, fault, f"take out such as are masks, or {WITHOUT_LABELS}")
        texts = [text[:20].strip() for text in self.read(labels)]
        for index, text in zip(labels, texts):
            if not re.fullmatch(rb"[0-9]{1,5}", text):
                raise self._no_class(self.names[index])
        return np.array([*map(int, texts)], np.int64)

    def _no_class(self, name: str) -> UserError:
        return UserError(
            self.path, f"{name} is missing or holds no class", f"write a whole number, or {WITHOUT_LABELS}"
        )


def folder_digest(folder: str | os.PathLike[str]) -> str:
    """As :meth:`Files.digest` of a folder of the user's own, whose files may be links, as in the Hub's cache."""
    names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    return _digest(folder, (name for name in names if not (_HIDDEN.search(name) or _SYSTEM.search(name))))


def _digest(folder: str | os.PathLike[str], names: Iterable[str]) -> str:
    total = hashlib.sha256()
    for name in names:
        with open_ordinary(os.path.join(folder, name)) as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
            total.update(f"{name}\0{stream.tell()}\0".encode() + content)
    return total.hexdigest()


def common_folder(names: Sequence[str]) -> str:
    """Common folder of all names, with a final ``/``; empty for the root."""
    # The least and the greatest name have the same beginning as all names between them.
    folder = os.path.commonpath([os.path.dirname(name) for name in (min(names), max(names))])
    return f"{folder}/" if folder else ""


def is_intact_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive (or npz) of ours has members, and all have the bytes of their checksums.

    Raises:
        UnreadableError: The file cannot be read; its content may be intact.
    """
    with open_ordinary(path) as stream:
        try:
            archive = zipfile.ZipFile(stream)
            members = archive.infolist()
            # Members of ours are stored as they are; packed ones could unpack for ever.
            plain = all(info.compress_type == zipfile.ZIP_STORED for info in members)
            fits = sum(info.file_size for info in members) <= os.fstat(stream.fileno()).st_size
            return bool(members) and plain and fits and archive.testzip() is None
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):
                raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
            return False
        except Exception:  # The library raises many kinds for bytes that are not a zip archive.
            return False


def _walk(folder: str) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the files of a folder, sorted, its folders, and the locations of the files, of which the sizes count."""
    folders: list[str] = []
    places = ("", ".")

    def refuse(name: str, fault: str) -> None:
        if not _HIDDEN.search(name):
            raise UserError(os.path.join(folder, name), *fault.split("; ", 1))

    sizes = ordinary_files(folder, math.inf, refuse, folders)
    locations = np.array([(0, size, size, -1, 0) for size in sizes.values()], np.int64).reshape(-1, 5)
    return [*sizes], [name for name in folders if name not in places], locations


def image_name(index: int, suffix: str = ".png", prefix: str = "img") -> str:
    """Name of an image in the EDM format, with a folder for each thousand: ``00000/img00000000.png``."""
    return f"{index // 1000:05d}/{prefix}{index:08d}{suffix}"


def dataset_json(labels: Iterable[Sequence[Any]] | None) -> str:
    """Content of ``dataset.json`` from pairs of name and label, or from None without labels."""
    return json.dumps({"labels": None if labels is None else [list(pair) for pair in labels]})
