"""The download cache: complete, checked files with records, fetched where they are missing, and locks of processes."""

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from sida.assets.download import Download, Transfer, absence_note, hash_and_fault
from sida.assets.registry import Asset, cached_file, find_asset, hub_offline, load_registry, network_of, offline
from sida.assets.registry import cache_dir as cache_dir  # also offered to callers of this module
from sida.errors import PassingError, UserError, say
from sida.files.atomic import copy_file, try_lock, wait_for_lock, write_json
from sida.files.text_files import parse_json, read_text
from sida.machine import now

LOCK_FILE = "assets.lock"
#: Environment variable with the start of the workflow, in seconds since 1970; the workflow sets it for its jobs.
RUN_STARTED = "SIDA_RUN_STARTED"
_STARTED = time.time()


class ReadOnlyCacheError(PassingError):
    """The cache cannot be written or locked; its files can be used, but none can be added."""


@contextlib.contextmanager
def file_lock(name: str, announce: str | None = None, wait: bool = True) -> Iterator[bool]:
    """Holds the lock ``name`` between processes; it is released when the process ends for any reason.

    Args:
        name: Any text, e.g. a target path.
        announce: Line printed once if another process holds the lock.
        wait: Wait for another holder.

    Yields:
        Whether the lock is held; always true after waiting.

    Raises:
        ReadOnlyCacheError: The lock cannot be written or taken.
    """
    path = cache_dir() / ".locks" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(open(path, "a+b"))
            if not (held := try_lock(stream)):
                if announce:
                    say(announce)
                if wait:
                    wait_for_lock(stream)
        except OSError as error:
            fault = f"the cache cannot be written and locked ({error.strerror})"
            remedy = "set SIDA_CACHE to another folder, on a file system with locks"
            raise ReadOnlyCacheError(cache_dir(), fault, remedy) from None
        yield held or wait


def read_records() -> dict[str, dict[str, Any]]:
    """Records of ``assets.lock`` by target: ``sha256``, ``size``, ``url`` and ``date``.

    A record also has the file's ``stamp`` (size, times and inode) at the last check, and the time of the check,
    ``checked``, in seconds since 1970.
    """
    path = cache_dir() / LOCK_FILE
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
    """SHA-256 of an asset, registered or recorded at its first use; the text ``asset ID`` if neither is known."""
    entry = load_registry().get(asset)
    sha256 = entry.sha256 or recorded(entry.target) if entry else ""
    return sha256 or f"asset {asset}"


def recorded(target: str) -> str:
    """SHA-256 that ``assets.lock`` has for a target; empty without one."""
    return str(read_records().get(target, {}).get("sha256", ""))


def write_record(target: str, record: dict[str, Any] | None) -> None:
    """Adds or replaces one entry of ``assets.lock``; None removes it."""
    with file_lock(LOCK_FILE):
        records = {**read_records(), target: record}
        write_json(cache_dir() / LOCK_FILE, {name: entry for name, entry in records.items() if entry is not None})


def absence(asset: Asset) -> str:
    """Answers of the servers, if none of them had the file of an asset at the last attempt; else an empty text.

    An attempt of the workflow that runs does not count: all its jobs see the same rows.
    """
    with contextlib.suppress(UserError, ValueError):
        if not asset.path.exists() and (note := absence_note(asset)).exists():
            time_text, reasons = read_text(note).split("\n", 1)
            return reasons if float(time_text) < float(os.environ.get(RUN_STARTED, "inf")) else ""
    return ""


def _find(asset_id: str) -> Asset:
    return find_asset(load_registry(), asset_id)


def fetch(asset_id: str, transfer: Transfer | None = None) -> Path:
    """Makes sure that an asset is in the cache, complete and unchanged.

    Args:
        asset_id: Id in the registry, or address.
        transfer: Settings of the download.

    Returns:
        Path of the file. Its hash was compared with the registered one, or with the one recorded in ``assets.lock`` at
        the first use: once in a workflow or other command, and again if size, times or inode changed.

    Raises:
        UserError: The id is unknown, the asset has no link or the network is forbidden (the message says where to put
            the file), the download failed, or the content is not the registered or recorded one.
    """
    asset = _find(asset_id)
    # An address without a file stands for the one network of its repository.
    if asset.hub and not asset.hub[2]:
        repository, mark, sha256 = asset_id.partition("#")
        asset = _find(f"{repository}/{network_of(*asset.hub[:2])}{mark}{sha256}")
    if not _is_checked(asset):
        with _locked(asset, f"[fetch {asset.id}] another job is fetching it; waiting") as writable:
            if asset.path.exists():  # Another process may have fetched it meanwhile.
                check_cached(asset, writable)
            else:
                _download(asset, transfer or Transfer())
    return asset.path


@contextlib.contextmanager
def _locked(asset: Asset, announce: str | None = None) -> Iterator[bool]:
    """Holds an asset's lock; yields whether the cache can be written. A read-only cache with the file needs no lock."""
    with contextlib.ExitStack() as stack:
        writable = True
        try:
            stack.enter_context(file_lock(asset.target, announce))
        except ReadOnlyCacheError:
            if not asset.path.exists():
                raise
            writable = False
        yield writable


def _download(asset: Asset, transfer: Transfer) -> None:
    """Downloads a missing asset, under its lock."""
    # Another program may have fetched the file into the Hub's own cache.
    if asset.hub and (copy := cached_file(*asset.hub)):
        copy_file(copy, asset.path)
        check_cached(asset)
        return
    if not asset.urls or (hub_offline() if asset.hub else offline()):
        raise unfetchable_error(asset)
    asset.path.parent.mkdir(parents=True, exist_ok=True)
    path, url = Download(asset, asset.sha256 or recorded(asset.target), transfer).run()
    _record(asset, path, url)


def verify_asset(asset_id: str) -> str | None:
    """Reads a cached file again and compares it with the registered or recorded hash.

    Returns:
        SHA-256 of the file, or ``None`` if it is not in the cache.

    Raises:
        UserError: The hash differs.
    """
    asset = _find(asset_id)
    if not asset.path.exists():
        return None
    with _locked(asset) as writable:
        return check_cached(asset, writable)


def forget(asset_id: str) -> list[str]:
    """Removes the hash recorded at an asset's first use, and the asset's files in the cache.

    A file without a link is kept, since it cannot be downloaded again. The next use records the hash anew.

    Returns:
        Descriptions of the removed things.
    """
    asset = _find(asset_id)
    with file_lock(asset.target):
        unfinished = Download(asset)
        removed_parts = ["the unfinished download"] if unfinished.arrived else []
        unfinished.remove()
        if asset.path.exists() and asset.urls:
            asset.path.unlink()
            removed_parts.append("the file")
        if recorded(asset.target):
            write_record(asset.target, None)
            removed_parts.append("its hash")
    return removed_parts


def _is_checked(asset: Asset) -> bool:
    """Whether a file was checked in this run, had the expected hash, and has not changed since.

    This needs no lock, since files and records are replaced atomically. Checks of earlier runs do not count, since a
    fault of the disk changes no stamp.
    """
    try:
        stamp = _stamp(asset.path)
    except OSError:
        return False
    record = read_records().get(asset.target, {})
    began, checked = float(os.environ.get(RUN_STARTED, _STARTED)), record.get("checked")
    fresh = isinstance(checked, float) and began <= checked <= time.time()
    return fresh and record.get("stamp") == stamp and record["sha256"] == (asset.sha256 or record["sha256"])


def checked(path: str | os.PathLike[str]) -> Path:
    """Returns a path given by the user, after a check of its hash (as in :func:`fetch`) if it is an asset in the cache.

    Raises:
        UserError: The hash differs.
    """
    path, cache = Path(os.path.expanduser(path)), cache_dir().resolve()
    resolved = path.resolve()
    for asset in load_registry().values() if resolved.is_relative_to(cache) and resolved.is_file() else ():
        if resolved == cache / asset.target:
            fetch(asset.id)
    return path


def check_cached(asset: Asset, record: bool = True) -> str:
    """Checks an asset's file in the cache, and records it if it is new (as when a user put it there).

    Args:
        asset: The asset.
        record: False if the cache cannot be written.

    Returns:
        SHA-256 of the file.

    Raises:
        UserError: The file does not have the registered size, or the registered or recorded hash.
    """
    entry = read_records().get(asset.target, {})
    digest, fault = hash_and_fault(asset.path, asset, asset.sha256 or entry.get("sha256", ""))
    if fault:
        raise UserError(asset.path, fault, "delete it, and fetch the file or put it there")
    if record:
        _record(asset, digest, entry.get("url", asset.url), entry.get("date"))
    return digest


def unfetchable_error(asset: Asset) -> UserError:
    """The error for a file that the user must put into the cache, in one line."""
    why = f"{'SIDA_OFFLINE' if offline() else 'HF_HUB_OFFLINE'} is set" if asset.urls else "has no direct link"
    origin = asset.urls[0] if asset.urls else asset.source
    note = f" [{asset.note}]" if asset.note and not asset.urls else ""
    remedy = f"get it from {origin} and put it at {asset.path}{note}"
    return UserError(f"asset '{asset.id}'", f"is missing and {why}", remedy)


#: Seconds in which a host must accept a connection.
PATIENCE = 3.0
#: Largest number of missing assets that one line lists, with address and path.
_MOST_LISTED = 6


def check_reachable(names: Iterable[str]) -> None:
    """Checks that missing assets can be downloaded: one of their hosts accepts a connection, or there is a proxy.

    Raises:
        UserError: The network is forbidden, or no host answers; the line names missing assets, and if they are few all
            with their addresses and paths in the cache.
    """
    registry = load_registry()
    assets = [find_asset(registry, name) for name in names]
    missing = [asset for asset in assets if asset.urls and not asset.hub and not asset.path.exists()]
    parts = [urlsplit(url) for asset in missing for url in asset.urls]
    hosts = {(part.hostname or "", part.port or (80 if part.scheme == "http" else 443)) for part in parts}
    # Behind a proxy no host can be reached directly, so that nothing is known before the download.
    if not missing or (not offline() and (getproxies() or any(_accepts(*host) for host in sorted(hosts)))):
        return
    why = "SIDA_OFFLINE is set" if offline() else "none of their hosts can be reached: is there a network?"
    missing = sorted(missing, key=lambda asset: asset.id)
    ids = " ".join(asset.id for asset in missing[:_MOST_LISTED])
    remedy = f"run `sida assets fetch {ids}` on a computer with internet, and copy its cache here"
    if len(missing) <= _MOST_LISTED:
        remedy += f"; or put there {', '.join(f'{asset.urls[0]} as {asset.target}' for asset in missing)}"
    else:
        ids += f" and {len(missing) - _MOST_LISTED} more"
        remedy = "make the target `downloads` of the preset on a computer with internet, and copy its cache here"
        remedy += "; `sida assets list` shows all assets"
    raise UserError(f"missing in {cache_dir()}", f"{ids} ({why})", remedy)


def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=PATIENCE):
        return True
    return False


def _record(asset: Asset, sha256: str, url: str, date: str | None = None) -> None:
    """Records a file; prints a line if its hash was not known before."""
    new, stamp = not recorded(asset.target), _stamp(asset.path)
    size = stamp[0]
    record = {"sha256": sha256, "size": size, "url": url, "date": date or now(), "stamp": stamp, "checked": time.time()}
    write_record(asset.target, record)
    if new and not asset.sha256:
        origin = f" of {url}" if url else ""
        say(f"[fetch {asset.id}] first use: recorded sha256 {sha256}, {size:,} bytes{origin}; enforced from now on")


def _stamp(path: Path) -> list[int]:
    """Size, times and inode of a file: one of them changes when a program writes or replaces the file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def fetch_many(asset_ids: Sequence[str], transfer: Transfer | None = None) -> dict[str, Path]:
    """Fetches several assets, one after the other; see :func:`fetch`. All are tried even if one fails.

    Raises:
        UserError: An asset is missing. Without a network one line names all missing assets, and nothing is tried.
            Otherwise the last fault is raised, and the others are printed before.
    """
    check_reachable(asset_ids)
    paths: dict[str, Path] = {}
    errors: list[UserError] = []
    for asset_id in dict.fromkeys(asset_ids):
        try:
            paths[asset_id] = fetch(asset_id, transfer)
        except UserError as error:
            errors.append(error)
    for fault in errors[:-1]:
        say(str(fault))
    if errors:
        raise errors[-1]
    return paths
