"""Reads encoded pictures of unknown origin from a folder or an archive, in a fenced child process
(:mod:`sida.data.reader`).

Data sets have the EDM format, images in a zip or folder with ``dataset.json``:

    00000/img00000000.png … , dataset.json = {"labels": [["00000/img00000000.png", 3], …]} or {"labels": null}

PNG (or any lossless picture) or npy of shape (C, H, W). Source: NVlabs/edm:dataset_tool.py, training/dataset.py.
"""

import bisect
import collections
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import re
import resource
import shlex
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import numpy as np

from sida.data.label_files import LABEL_FILES, WITHOUT_LABELS, same_name
from sida.data.pictures import PICTURES, UNREAD
from sida.errors import UserError, counted, errors_at, near_path
from sida.files.atomic import sha256_file
from sida.files.content import ARRAYS, NETWORK, START, kind_of_file, refuse_text
from sida.files.fenced import RESULT, Child, check_answer
from sida.files.ordinary import open_ordinary, size_on_disk

#: File that describes an archive's latents.
LATENTS_FILE = "latents.json"
#: Suffix of a file with the class of the picture of its name.
CLASS = ".cls"
_DRAW = "draw its images first (sida sample), or score it alone (sida score FILE)"
_INNER = "unpack them, move them, or put all into one archive (tar -cf all.tar -C FOLDER .), whose tars are read"
_EXPORT = "give its pictures in a folder, zip or tar, or all images in one array of an npz or npy"
#: Members of a request, and bytes of the images of an answer.
MEMBERS, PART = 64, RESULT // 4
#: Processor time in seconds that a request may take for a byte and for a member.
SECONDS, _SECONDS_PER_FILE = 1 / 2e6, 0.02
#: Bytes to which any packed archive may unpack, and largest ratio of larger ones: images hardly shrink, bombs shrink
#: a lot.
FREE_BYTES, MAX_RATIO = 64 << 20, 20
READER = "sida.data.reader:Reader"
#: Names of files that do not belong to a data set: files of macOS, Windows and network drives, and hidden ones.
_SYSTEM = re.compile(
    r"(^|/)((__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information)/|(Thumbs\.db|desktop\.ini|\.DS_Store)$)"
)
_HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")
#: Usual names of grids of pictures; and number of pictures beside a grid whose sizes are compared with its size.
_GRID = re.compile(r"(^|/)(([^/]*[-_])?grid([-_]?\d+)?|fakes(\d+|_init)|reals)\.\w+$")
_COMPARED = 64
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".rar", ".7z")


class Files:
    """Named byte strings of a folder, a zip or a tar (also packed, or with tars in it).

    Opening lists all members, for which a packed archive is unpacked, and reads headers of pictures if a name is that
    of a grid; children end with the object.

    Hidden files, files of operating systems, and grids of pictures are left out. A grid has a usual name
    (``grid.png``), and beside or below it lie more pictures, all of one size, which is smaller than the grid's.

    Args:
        path: Archive or folder; its content decides its kind.
        workers: Largest number of children that read.

    Attributes:
        path: As given.
        names: Relative names with ``/``, sorted.
        left_out: Remark on files that were left out, with their number and reason, or an empty string.
        bare: Folders that are empty or hold only hidden files, sorted.
        is_folder: Whether it is a folder.

    Raises:
        UserError: The path is missing, of an unknown format, or the archive is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], workers: int = 1) -> None:
        self.path, self.workers, self.is_folder = str(path), workers, Path(path).is_dir()
        self._archive: IO[bytes] | None = None
        self._idle: list[Child] = []
        if self.is_folder:
            member_names, folders = _walk(Path(path))
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
                remedy = _DRAW if kind == NETWORK else prepare if kind in ARRAYS else _EXPORT
                raise UserError(path, f"is {kind}, not an archive", remedy)
            member_names, folders, locations = self._index()
        self.names = member_names
        self._locations = None if self.is_folder else locations
        rules = {"of an operating system": _SYSTEM.search, "hidden": _HIDDEN.search}
        omitted = {
            reason: self._leave_out([i for i, n in enumerate(self.names) if rule(n)]) for reason, rule in rules.items()
        }
        grids = self._leave_out(self._grids())
        omitted["grids of pictures" if len(grids) > 1 else "grid of pictures"] = grids
        parts = [f"{len(names):,} {reason}, such as {min(names)}" for reason, names in omitted.items() if names]
        count = sum(map(len, omitted.values()))
        self.left_out = f"{count:,} file{'s' * (count > 1)} left out ({'; '.join(parts)})" if count else ""
        emptied = {os.path.dirname(name.rstrip("/")) for name in omitted["hidden"]}
        folders = [folder for folder in {*folders, *emptied} if not (_HIDDEN.search(folder) or _SYSTEM.search(folder))]
        self.bare = sorted(folder for folder in folders if not self._below(folder))

    def _leave_out(self, indices: Collection[int]) -> list[str]:
        """Removes files from the list, and returns their names."""
        removed = {*indices}
        names = [self.names[index] for index in removed]
        if removed:
            remaining = [index for index in range(len(self)) if index not in removed]
            self.names = [self.names[index] for index in remaining]
            self._locations = None if self._locations is None else self._locations[remaining]
        return names

    def _grids(self) -> set[int]:
        """Indices of grids of samples: pictures with a grid's name, larger than the equal-sized pictures near them."""
        by_folder: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            if _GRID.search(name) and name.lower().endswith(tuple(PICTURES)):
                by_folder.setdefault(name.rpartition("/")[0], []).append(index)
        grids: set[int] = set()
        for folder, suspects in by_folder.items():
            below = [i for i in self._below(folder) if self.names[i].lower().endswith(tuple(PICTURES))]
            others = [index for index in below if not _GRID.search(self.names[index])]
            if len(suspects) >= len(others):
                continue
            # A sample at equal distances suffices: one other size means that there is no set of equal pictures.
            sizes = self._sizes(others[:: -(-len(others) // _COMPARED)])
            if len({*sizes}) == 1:
                (width, height), own = sizes[0], self._sizes(suspects)
                grids |= {
                    i for i, (w, h) in zip(suspects, own) if w >= width and h >= height and w + h > width + height
                }
        return grids

    def _below(self, folder: str) -> range:
        """Indices of the files below a folder; of all files, if its name is empty."""
        if not folder:
            return range(len(self))
        # Names are sorted, and "0" is the character after "/".
        return range(bisect.bisect_left(self.names, f"{folder}/"), bisect.bisect_left(self.names, f"{folder}0"))

    def _sizes(self, members: Sequence[int]) -> list[tuple[int, int]]:
        """Width and height of pictures; zeros for a damaged one."""
        answers = self.ask("headers", members, MEMBERS)
        return [(int(width), int(height)) for _, value, _ in answers for width, height, _ in value]

    def _index(self) -> tuple[list[str], list[str], np.ndarray]:
        """Names, empty folders and locations of members; a packed archive is first unpacked into a nameless file."""
        # A directory of a million members takes half a gigabyte.
        with self._lent(1, min(1 << 30, self.size // 8)) as (child,):
            answer, arrays = child.ask("index", files=[self._opened()], seconds=self.size * SECONDS)
            if answer is None:
                self._archive = self._unpacked(child)
                answer, arrays = child.ask("index", files=[self._opened()], seconds=self.size * SECONDS)
        locations = arrays.get("locations", np.empty((0, 5), np.int64))
        check_answer(answer is not None and locations.shape == (len(answer[0]), 5), self.path)
        names, folders = answer
        return names, folders, locations

    def _unpacked(self, child: Child) -> IO[bytes]:
        most = max(FREE_BYTES, MAX_RATIO * self.size)
        with tempfile.TemporaryFile() as plain:
            while len(piece := child.ask("unpack")[1]["bytes"]):
                plain.write(piece.tobytes())
                if plain.tell() > most:
                    raise UserError(self.path, f"unpacks to more than {most:,} bytes", "that is not a data set")
            plain.flush()
            # Opened again read-only, since a child must not write. The file has no name to open.
            return open(f"/proc/self/fd/{plain.fileno()}", "rb")

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
            fault = f"holds {kind}, not pictures" if kind else f"holds no pictures ({', '.join(sorted(PICTURES))})"
            others = collections.Counter(PurePosixPath(name).suffix or name for name in self.names)
            counts = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(4))
            rest = "; ".join(filter(None, (self.left_out, f"other files: {counts}" if counts else "")))
            arrays_there = next((suffix for suffix in (".npz", ".npy") if suffix in others), None)
            unread = not kind and not UNREAD.isdisjoint(map(str.lower, others))
            remedy = _DRAW if kind == NETWORK else "convert them to PNG" if unread else _EXPORT
            remedy = self._joining(arrays_there) if arrays_there else remedy
            raise UserError(self.path, f"{fault}; {rest}" if rest else fault, remedy)
        return np.array(indices, dtype=np.int64)

    def _joining(self, suffix: str) -> str:
        """Remedy for files of arrays: a command that joins them, of an npz the first array.

        Each has one image or several; arrays of classes beside them cannot be joined with images.
        """
        if not self.is_folder:
            return "unpack it, and name one of them"
        if any("label" in name.lower() for name in self.names):
            return "name the file of the images"
        each = "np.load(f)" if suffix == ".npy" else "next(iter(np.load(f).values()))"
        files = f"sorted(glob.glob({json.dumps(f'{self.path}/**/*{suffix}', ensure_ascii=False)}, recursive=True))"
        joined = f"[a.reshape(-1, *a.shape[-3:]) for a in ({each} for f in {files})]"
        code = f'import glob, numpy as np; np.savez("all.npz", np.concatenate({joined}))'
        return f"name one of them, or join them: python -c {shlex.quote(code)}"

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
        """SHA-256 of an archive's bytes, or of names and contents of a folder's files, in order.

        Args:
            members: Indices of the files of a folder; None: all files.
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
        """Asks :class:`sida.data.reader.Reader` for members, ``count`` at a time; yields members and answer in order.

        Several children work on several parts at a time.
        """
        if self.is_folder:
            count = min(count, _files_at_once())
        parts = [members[start : start + count] for start in range(0, len(members), count)]
        with self._lent(max(1, min(self.workers, len(parts)))) as children:
            for part, child in zip(parts, children):
                self._send(child, method, part, args)
            for number, part in enumerate(parts):
                child = children[number % len(children)]
                value, arrays = child.receive()
                # The child works on its next part while the caller uses this one.
                if number + len(children) < len(parts):
                    self._send(child, method, parts[number + len(children)], args)
                yield part, value, arrays

    def _send(self, child: Child, method: str, part: Sequence[int] | np.ndarray, args: tuple[Any, ...]) -> None:
        names = [self.names[int(index)] for index in part]
        locations: Sequence[Sequence[int] | None]
        if self._locations is None:
            locations, files = [None] * len(names), [self._opened(name) for name in names]
            size = sum(os.fstat(file.fileno()).st_size for file in files)
        else:
            rows = self._locations[np.asarray(part, dtype=np.int64)]
            locations, files, size = rows.tolist(), [self._opened()], int(rows[:, 1].sum())
        seconds = len(part) * _SECONDS_PER_FILE + size * SECONDS
        child.send(method, [*zip(names, locations)], *args, files=files, seconds=seconds)

    def _opened(self, name: str = "") -> BinaryIO:
        """The archive or, of a folder, one of its files, for a child."""
        if self._archive is not None:
            # Children share the file's position. Only readers of a complete archive use it, from its start; members are
            # read from their own offsets.
            os.lseek(self._archive.fileno(), 0, os.SEEK_SET)
            return os.fdopen(os.dup(self._archive.fileno()), "rb")
        path = os.path.join(self.path, name)
        if os.path.islink(path) and not os.path.exists(path):
            raise UserError(path, "is a link to a missing file", "remove it")
        with errors_at(f"{self.path}: {name}"):
            return open_ordinary(path)

    @contextlib.contextmanager
    def _lent(self, count: int, memory: int = 0) -> Iterator[list[Child]]:
        """Lends children to one thread: idle ones of this process (a fork starts its own), and new ones."""
        children: list[Child] = []
        while len(children) < count:
            try:  # Other threads take idle children as well.
                child = self._idle.pop()
            except IndexError:
                child = Child(READER, self.path, memory)
            if child.close.alive and child.owner == os.getpid():
                children.append(child)
        try:
            yield children
        except BaseException:  # also from the caller: the children still have answers that nobody will read
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
            per_answer = PART // (math.prod(shape) * np.dtype(kind).itemsize)
            # Two parts or more for each worker, so that all of them work.
            count = max(1, min(MEMBERS, per_answer, -(-len(members) // (2 * self.workers))))
        for part, facts, arrays in self.ask("images", members, count, shape, kind, only_pictures):
            answer = arrays.get("images")
            number = len(facts["lossy"])
            is_complete = (
                answer is None if number == 0 else answer is not None and [*answer.shape] == [number, *facts["shape"]]
            )
            check_answer(is_complete and number + (facts["differing"] is not None) <= len(part), self.path)
            yield facts, answer

    def labels(self, members: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Classes of members, int64 ``(N,)``, by one of :data:`~sida.data.label_files.LABEL_FILES`, or by a file
        ``KEY.cls`` for each picture ``KEY.png`` or ``KEY.image.png`` (WebDataset).

        A file of labels lies at the root or in a folder that holds all members, and names them from there. None: there
        are no such files, or they have no labels.

        Raises:
            UserError: The file is broken, an image has no label, or a label is not a class.
        """
        names = [self.names[int(member)] for member in members]
        folder = PurePosixPath(common_folder(names))
        prefixes = ["", *(f"{prefix}/" for prefix in (folder, *folder.parents) if prefix.name)]
        for prefix, file in itertools.product(prefixes, LABEL_FILES):
            if (index := self.find(prefix + file)) is not None:
                relative = [name.removeprefix(prefix) for name in names]
                ((_, _, arrays),) = self.ask("labels", [index], 1, relative)
                rows = arrays.get("labels")
                check_answer(rows is None or rows.shape == (len(names),), self.where(index))
                return rows
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
        classes = []
        indices = {same_name(name): index for index, name in enumerate(self.names) if name.endswith(CLASS)}
        for picture in pictures:
            # WebDataset's key of 0000.image.png is 0000.
            folder, base = os.path.split(picture)
            names = [os.path.join(folder, key + CLASS) for key in (os.path.splitext(base)[0], base.partition(".")[0])]
            name = next((name for name in names if same_name(name) in indices), names[0])
            index = indices.get(same_name(name))
            if index is None or not re.fullmatch(rb"[0-9]{1,5}", text := self.read(index)[:20].strip()):
                fault = f"{name} is missing or holds no class"
                raise UserError(self.path, fault, f"write a whole number, or {WITHOUT_LABELS}")
            classes.append(int(text))
        return np.array(classes, np.int64)


def _files_at_once() -> int:
    """Files of a request: fewer than this process may have open (``ulimit -n``)."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MEMBERS if allowed == resource.RLIM_INFINITY else max(1, min(MEMBERS, allowed // 2 - 20))


def common_folder(names: Sequence[str]) -> str:
    """Common folder of all names, with a final ``/``; empty for the root."""
    # The least and the greatest name have the same beginning as all names between them.
    folder = os.path.commonpath([os.path.dirname(name) for name in (min(names), max(names))])
    return f"{folder}/" if folder else ""


def is_intact_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive (or npz) has members, and all have the bytes of their checksums.

    Raises:
        UserError: The file cannot be read, or a limit was exceeded; its content may be intact.
    """
    return ask_shared("intact", path)[0] is True


def ask_shared(method: str, path: str | os.PathLike[str], *args: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Asks a child of this process that reads many files, one after the other: starting a child takes long."""
    stream = open_ordinary(path)
    try:
        return _shared(os.getpid()).ask(method, *args, files=[stream], seconds=size_on_disk(stream) * SECONDS)
    except UserError as error:
        _shared.cache_clear()
        raise type(error)(path, error.fault, error.remedy) from None


@functools.cache
def _shared(process: int) -> Child:
    return Child(READER, "a file")


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files of a folder, which may have links, sorted, and its empty folders.

    A hidden folder counts as one file, whose name ends in a slash.
    """
    visited: dict[tuple[int, int], str] = {}
    names: list[str] = []
    empty: list[str] = []
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        relative = Path(root).relative_to(folder).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        names += [f"{prefix}{name}/" for name in folders if name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not folders and not files:
            empty.append(relative)
        # A link to a folder above would yield each image many times.
        status = os.stat(root)
        other = visited.setdefault((status.st_dev, status.st_ino), root)
        if other != root:
            raise UserError(root, f"is a link to, or from, {other}", "remove one, its images would count twice")
        for name in files:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise UserError(folder, f"the name {name!a} is not UTF-8", "rename the file") from None
            names.append(prefix + name)
    return sorted(names), empty


def _unreadable(error: OSError) -> None:
    raise UserError(error.filename, f"cannot be read ({error.strerror})", "its images would be left out")


def image_name(index: int, suffix: str = ".png", prefix: str = "img") -> str:
    """Name of an image in the EDM format, with a folder for each thousand: ``00000/img00000000.png``."""
    return f"{index // 1000:05d}/{prefix}{index:08d}{suffix}"


def dataset_json(labels: Iterable[Sequence[Any]] | None) -> str:
    """Content of ``dataset.json`` from pairs of name and label, or from None without labels."""
    return json.dumps({"labels": None if labels is None else [list(pair) for pair in labels]})
