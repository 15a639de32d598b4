"""From an id to a checked file in the cache."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.assets.cache import cache_dir, download_slot, file_lock, read_records, write_record
from sida.assets.download import Transfer, download, finish
from sida.assets.registry import Asset, find_asset, load_registry
from sida.errors import UserError
from sida.io import sha256_file
from sida.provenance import now


def fetch(
    asset_id: str,
    *,
    registry: Mapping[str, Asset] | None = None,
    cache: str | os.PathLike[str] | None = None,
    transfer: Transfer | None = None,
    slots: int | None = None,
) -> Path:
    """Makes sure that an asset is in the cache, whole and unchanged.

    Args:
        asset_id: Id in the registry.
        registry: Assets by id; ``None`` reads :func:`sida.assets.registry.default_registry`.
        cache: Cache folder; ``None`` for :func:`sida.assets.cache.cache_dir`.
        transfer: Patience of the download.
        slots: Downloads at a time over all processes; ``None``: ``$SIDA_DOWNLOADS`` or 4.

    Returns:
        Path of the file. It has been checked against the registered hash, or, where none is registered, against the one
        recorded in ``assets.lock`` when the file was first used.

    Raises:
        UserError: Unknown id, no link, offline (with the place where the file must be put), failed download, or a file
            whose content is not the registered or recorded one.
    """
    asset = find_asset(dict(load_registry() if registry is None else registry), asset_id)
    folder = Path(cache) if cache is not None else cache_dir()
    target = folder / asset.target
    with file_lock(folder, asset.target, f"[fetch {asset.id}] another job is fetching it; waiting"):
        if target.exists():
            check_cached(asset, folder)
            return target
        if not asset.urls or offline():
            raise UserError(by_hand(asset, target))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        recorded = read_records(folder).get(asset.target, {}).get("sha256", "")
        with download_slot(folder, slots or _slots()):
            found, url = download(asset, part, asset.sha256 or recorded, transfer or Transfer())
        finish(part, target)
        write_record(folder, asset.target, _record(target, found, url))
    return target


def fetch_many(
    asset_ids: Sequence[str],
    *,
    registry: Mapping[str, Asset] | None = None,
    cache: str | os.PathLike[str] | None = None,
    transfer: Transfer | None = None,
    parallel: int = 4,
) -> dict[str, Path]:
    """Fetches several assets side by side; see :func:`fetch`.

    All are tried even when one fails.

    Raises:
        UserError: With the number of failures and the first reason; every reason is printed.
    """
    assets = dict(load_registry() if registry is None else registry)
    for asset_id in asset_ids:
        find_asset(assets, asset_id)
    paths: dict[str, Path] = {}
    faults: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(max(1, parallel)) as pool:
        jobs = {
            pool.submit(fetch, i, registry=assets, cache=cache, transfer=transfer, slots=parallel): i
            for i in dict.fromkeys(asset_ids)
        }
        for job in concurrent.futures.as_completed(jobs):
            try:
                paths[jobs[job]] = job.result()
            except UserError as error:
                faults.append(str(error))
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        for fault in sorted(faults):
            print(fault, flush=True)
        raise UserError(f"{len(faults)} of {len(jobs)} assets are missing (listed above)")
    return {asset_id: paths[asset_id] for asset_id in asset_ids}


def verify(
    asset_id: str, *, registry: Mapping[str, Asset] | None = None, cache: str | os.PathLike[str] | None = None
) -> str | None:
    """Reads a cached file again and compares it with the registered or recorded hash.

    Returns:
        Its SHA-256, or ``None`` when it is not in the cache.

    Raises:
        UserError: The content is another one.
    """
    asset = find_asset(dict(load_registry() if registry is None else registry), asset_id)
    folder = Path(cache) if cache is not None else cache_dir()
    if not (folder / asset.target).exists():
        return None
    with file_lock(folder, asset.target):
        return check_cached(asset, folder, thorough=True)


def check_cached(asset: Asset, cache: Path, thorough: bool = False) -> str:
    """Checks a file that is already there and records it if it is new (also one that was put by hand).

    A file that has size and time of its last check is not read again unless ``thorough``.
    """
    target = cache / asset.target
    record = read_records(cache).get(asset.target, {})
    stamp = _stamp(target)
    expected = asset.sha256 or record.get("sha256", "")
    if not thorough and expected and record.get("sha256") == expected and record.get("stamp") == stamp:
        return expected
    size = target.stat().st_size
    if asset.size is not None and size != asset.size:
        raise UserError(f"{target}: has {size:,} bytes, {asset.size:,} are registered; delete it and fetch it again")
    found = sha256_file(target)
    if expected and found != expected:
        source = "registered" if asset.sha256 else "one in assets.lock,"
        raise UserError(
            f"{target}: its sha256 {found[:12]}… is not the {source} {expected[:12]}…; delete it and fetch it again"
        )
    write_record(
        cache, asset.target, {**_record(target, found, asset.url), **({"date": record["date"]} if record else {})}
    )
    return found


def describe(asset: Asset, cache: Path) -> dict[str, Any]:
    """What a cached asset is and where it came from, without dates and absolute paths: equal files, equal records."""
    record = read_records(cache)[asset.target]
    facts = {name: getattr(asset, name) for name in ("id", "kind", "target", "license", "source", "note")}
    return {**facts, **{name: record[name] for name in ("sha256", "size", "url")}}


def offline() -> bool:
    """Whether ``SIDA_OFFLINE`` forbids the network."""
    return os.environ.get("SIDA_OFFLINE", "") not in ("", "0", "false", "no")


def by_hand(asset: Asset, target: Path) -> str:
    """What to put where, in one line."""
    facts = [f"{asset.size:,} bytes"] if asset.size else []
    facts += [f"sha256 {asset.sha256}"] if asset.sha256 else []
    size = f" ({', '.join(facts)})" if facts else ""
    why = "SIDA_OFFLINE is set" if asset.urls else "has no direct link"
    origin = asset.urls[0] if asset.urls else asset.source
    note = f" [{asset.note}]" if asset.note and not asset.urls else ""
    return f"asset '{asset.id}' is missing and {why}: get it from {origin}{size} and put it at {target}{note}"


def _record(target: Path, sha256: str, url: str) -> dict[str, Any]:
    size = target.stat().st_size
    return {"sha256": sha256, "size": size, "url": url, "date": now(), "stamp": _stamp(target)}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _slots() -> int:
    text = os.environ.get("SIDA_DOWNLOADS", "4")
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"SIDA_DOWNLOADS: '{text}' must be a whole number above 0")
    return int(text)
