"""Atomic writes (temporary name, fsync, rename), JSON files with the hash of their content, digests, locks.

A process locks the temporary file that it writes. Locks are those of open files (``flock``), which the kernel releases
when their process ends for any reason.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sida.errors import UserError
from sida.files.ordinary import UnreadableError, open_ordinary
from sida.files.text_files import HASH_KEY, DamagedError, check_amount, check_hash, parse_json, read_text, with_hash


def try_lock(file: int | BinaryIO, shared: bool = False) -> bool:
    """Takes a file's lock unless another holder has it; returns whether it was taken.

    Args:
        file: Open file or descriptor; closing it releases the lock.
        shared: Take a lock that several holders may share.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: int | BinaryIO) -> None:
    """Waits for a file's lock and takes it; arguments and errors are those of :func:`try_lock`."""
    fcntl.flock(file, fcntl.LOCK_EX)


#: Seconds without a change after which an unlocked temporary file counts as left behind by a killed process.
DAY = 86_400.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME = re.compile(r"\..+?\.[a-z0-9_]{8}\.tmp(?:\.[^.]+)?")
#: Folders that this process has swept.
_swept: set[str] = set()


def sweep_temporaries(folder: str | os.PathLike[str], age: float = 0, folders_of: str | None = None) -> None:
    """Removes the temporary files and folders that killed processes left in a folder; locked ones stay.

    Args:
        folder: The folder; it may be missing.
        age: Seconds without a change after which an unlocked file counts as left behind. 0 needs a folder to which no
            other process writes: a writer makes its file before it can lock it.
        folders_of: Name of the only target whose temporary folders are removed, and no files: :func:`atomic_folder`
            makes another one if its folder is removed before it is locked.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if not (is_folder or entry.is_file(follow_symlinks=False)):
                continue
            if not _NAME.fullmatch(entry.name):
                continue
            if folders_of is not None and not (is_folder and entry.name.startswith(f".{folders_of}.")):
                continue
            # On a file system without locks try_lock fails and all files stay, since any of them may be in use.
            with contextlib.suppress(OSError), _opened(entry.path) as handle:
                if time.time() - os.fstat(handle).st_mtime >= age and try_lock(handle, shared=True):
                    shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    # Somebody may have put a link or a pipe there: neither follow the one nor wait for the other.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield handle
    finally:
        os.close(handle)


# The umask can only be read by setting it, which affects all threads: do it once, before threads exist.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder beside ``path``; on success it is renamed to ``path``, which must not exist.

    An exception removes the temporary folder; the next call removes a folder that a killed process left.

    Raises:
        UserError: Another process made a folder ``path`` meanwhile; it stays as it is.
        OSError: The system cannot write; the error of a full disk names ``path``.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(target.parent, folders_of=target.name)
    with _naming(target):
        part, handle = _locked_folder(target)
        try:
            with _naming(target, parts=[part]):
                yield part
            part.chmod(0o777 & ~_UMASK)
            try:
                part.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                fault = "was made by another process meanwhile"
                raise UserError(target, fault, "name another folder, or remove it") from None
        finally:
            os.close(handle)
            shutil.rmtree(part, ignore_errors=True)


def _locked_folder(target: Path) -> tuple[Path, int]:
    """A temporary folder beside a target, and the handle that holds its lock."""
    while True:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(part, os.O_RDONLY)
            try:
                is_locked = try_lock(handle)
            except OSError:
                return part, handle  # Without locks writing still works, and no sweep removes the folder.
            if is_locked and part.exists():
                return part, handle
            # Another process sweeps it, which came between.
            os.close(handle)


@contextlib.contextmanager
def _naming(*targets: Path, parts: Sequence[Path] = ()) -> Iterator[None]:
    """Names the target in errors of a full disk, which name no file, a temporary one or the file that was copied.

    Args:
        targets: The first is that of errors without a name.
        parts: Temporary file or folder of each target.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        names = [
            Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
        ]
        within = [target for target, part in zip(targets, parts) if any(name.is_relative_to(part) for name in names)]
        if names and not within:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str((within or targets)[0])) from None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    On any exception (KeyboardInterrupt included) the temporary file is removed and ``path`` is untouched. The first
    write to a folder also removes temporary files that killed processes left there.

    Raises:
        UserError: ``path`` is a folder or a device; a rename would fail late or replace the device.
        OSError: The system cannot write; the error of a full disk names ``path``.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copies a file's content; errors are those of :func:`atomic_path`."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """As :func:`atomic_path`, for files that belong together: none is renamed before all of them are on the disk."""
    targets = [*map(Path, paths)]
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(_temporary(target)) for target in targets]
        with _naming(*targets, parts=parts):
            yield parts
        for target, part in zip(targets, parts):
            with _naming(target, parts=[part]):
                # mkstemp makes private files; results get the usual permissions.
                part.chmod(0o666 & ~_UMASK)
                with open(part, "rb+") as stream:
                    os.fsync(stream.fileno())
        for target, part in zip(targets, parts):
            os.replace(part, target)
        # A rename changes the folder, which is flushed by itself; some file systems cannot flush folders.
        for folder in {target.parent for target in targets}:
            with contextlib.suppress(OSError):
                directory = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Yields a locked temporary file beside a target, and removes it at the end."""
    if target.exists() and not target.is_file():
        raise UserError(target, "is not an ordinary file and will not be replaced", "name another file to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    if str(target.parent) not in _swept:
        _swept.add(str(target.parent))
        sweep_temporaries(target.parent, DAY)
    # A name has at most 255 bytes; mkstemp's letters and the suffix need some of them.
    start = os.fsencode(target.name)[:180].decode(errors="ignore")
    handle, name = tempfile.mkstemp(f".tmp{target.suffix}", f".{start}.", target.parent)
    temporary = Path(name)
    try:
        with contextlib.suppress(OSError):
            try_lock(handle)
        yield temporary
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def set_aside(path: str | os.PathLike[str]) -> Path:
    """Renames a damaged file to ``<name>.damaged``, so that it is made again; returns the new path."""
    target = Path(f"{os.fspath(path)}.damaged")
    os.replace(path, target)
    return target


def zip_member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    """Entry of a zip archive with a fixed date, so that equal content gives equal bytes.

    Args:
        name: Name in the archive.
        mode: Permissions; 0 records none, as in the official data sets.
    """
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr = mode << 16
    return member


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as part:
        part.write_bytes(text.encode())


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Writes texts (UTF-8) and bytes that belong together: all of them, or none."""
    with atomic_paths(*contents) as parts:
        for part, (path, content) in zip(parts, contents.items()):
            with _naming(path):
                part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes :func:`json_text` atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON with sorted keys and two-space indent; NaN and infinity are refused."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_hashed_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Writes a record as JSON, with the hash of its content (:mod:`sida.files.text_files`), atomically."""
    write_json(path, with_hash(record))


def read_hashed_json(path: str | os.PathLike[str], remedy: str = DamagedError.REMAKE) -> dict[str, Any]:
    """Reads a JSON object, checks its hash, and returns it without the hash.

    Raises:
        UserError: The file cannot be read, holds no JSON object, or is damaged.
    """
    try:
        record = parse_json(read_text(path), str(path))
    except UnreadableError:
        raise  # The content may be intact.
    except UserError as error:
        if not Path(path).is_file():
            raise
        raise DamagedError(path, remedy, str(error).removeprefix(f"{path}: ")) from None
    if not isinstance(record, dict):
        raise DamagedError(path, remedy, "must be a JSON object")
    return check_hash(record, path, remedy)


def jsonl_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as JSON lines."""
    return "".join(f"{json.dumps(record, sort_keys=True, allow_nan=False)}\n" for record in records)


def append_jsonl(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Appends one JSON object as a line, without buffering it in this process; the folder must exist."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(jsonl_text([record]))


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a file of JSON lines; a last line that was cut off by a crash is ignored.

    Files of earlier versions have a hash in each line, which is left out.

    Raises:
        UserError: A damaged line.
    """
    records = []
    text = read_text(path)
    check_amount(text, str(path), "[{,\n")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            # A cut-off line has no line end, and no text after a whole record.
            if number == len(lines) and "Extra data" not in str(error):
                continue
            raise DamagedError(where, reason=f"not valid JSON lines ({error})") from None
        if not isinstance(record, dict):
            raise DamagedError(where, reason="must be a JSON object")
        records.append({key: value for key, value in record.items() if key != HASH_KEY})
    return records


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        UserError: The file is missing or not an ordinary file.
    """
    with open_ordinary(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON form of a value: equal values have equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def by_content(value: Any) -> Any:
    """Replaces every text of a JSON value that is the path of a file by ``{"sha256": digest}`` of that file.

    Results depend on a file's content, not on its path. Plain words (without ``/`` and suffix) are never taken for
    paths.
    """
    if isinstance(value, Mapping):
        return {key: by_content(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [by_content(item) for item in value]
    if isinstance(value, str) and (os.sep in value or Path(value).suffix) and os.path.isfile(value):
        return {"sha256": sha256_file(value)}
    return value
