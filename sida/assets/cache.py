"""The download cache: its folder, the records of its files, and locks between processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sida.assets.registry import load_registry
from sida.errors import UserError, say
from sida.files.atomic import try_lock, wait_for_lock, write_json
from sida.files.text_files import parse_json, read_text

LOCK_FILE = "assets.lock"


class ReadOnlyCacheError(UserError):
    """The cache cannot be written or locked; its files can be used, but none can be added."""


def cache_dir() -> Path:
    """Cache folder: ``$SIDA_CACHE``, else ``sida`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    if os.environ.get("SIDA_CACHE"):
        return Path(os.path.expanduser(os.environ["SIDA_CACHE"]))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "sida"


@contextlib.contextmanager
def file_lock(cache: Path, name: str, announce: str | None = None) -> Iterator[None]:
    """Holds the lock ``name`` between processes; it is released when the process ends for any reason.

    Args:
        cache: Cache folder.
        name: Any text, e.g. a target path.
        announce: Line printed once if another process holds the lock.

    Raises:
        ReadOnlyCacheError: The lock cannot be written.
    """
    with _lock_stream(cache, name) as stream:
        with _locking(cache):
            if not try_lock(stream):
                if announce:
                    say(announce)
                wait_for_lock(stream)
        yield


def read_records(cache: Path) -> dict[str, dict[str, Any]]:
    """Records of ``assets.lock`` by target: ``sha256``, ``size``, ``url`` and ``date``.

    A record also has the file's ``stamp`` (size, times and inode) at the last check, and the time of the check,
    ``checked``, in seconds since 1970.
    """
    path = cache / LOCK_FILE
    if not path.exists():
        return {}
    text = read_text(path)
    with contextlib.suppress(UserError):
        value = parse_json(text, str(path))
        if isinstance(value, dict) and all(map(_is_record, value.values())):
            return value
    raise UserError(path, "damaged", "restore it, or delete it to record all hashes anew")


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= {"size", "url"} and isinstance(value.get("sha256"), str)


def registered(asset: str) -> str:
    """SHA-256 of an asset: the registered one, or the one recorded at its first use; else ``asset ID``, no digest."""
    entry = load_registry().get(asset)
    known = entry.sha256 or recorded(entry.target) if entry else ""
    return known or f"asset {asset}"


def recorded(target: str) -> str:
    """SHA-256 that ``assets.lock`` has for a target; empty without one."""
    return str(read_records(cache_dir()).get(target, {}).get("sha256", ""))


def write_record(cache: Path, target: str, record: dict[str, Any]) -> None:
    """Adds or replaces one entry of ``assets.lock``."""
    with file_lock(cache, LOCK_FILE):
        write_json(cache / LOCK_FILE, {**read_records(cache), target: record})


def remove_record(cache: Path, target: str) -> bool:
    """Removes one entry of ``assets.lock``; returns whether there was one."""
    with file_lock(cache, LOCK_FILE):
        records = read_records(cache)
        known = records.pop(target, None) is not None
        if known:
            write_json(cache / LOCK_FILE, records)
    return known


@contextlib.contextmanager
def _locking(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "set SIDA_CACHE to a folder on a file system with locks"
        raise ReadOnlyCacheError(cache, f"the cache cannot be locked ({error.strerror})", remedy) from None


def _lock_stream(cache: Path, name: str) -> BinaryIO:
    path = cache / ".locks" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+b")
    except OSError as error:
        fault = f"the cache cannot be written ({error.strerror})"
        raise ReadOnlyCacheError(cache, fault, "set SIDA_CACHE to another folder") from None
