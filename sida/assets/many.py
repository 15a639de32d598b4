"""Parallel downloads, which one interrupt ends."""

from __future__ import annotations

import collections
import dataclasses
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from sida.assets.download import Transfer
from sida.assets.fetch import fetch
from sida.assets.registry import Asset, find_asset, load_registry
from sida.errors import UserError
from sida.progress import say

#: Seconds that an interrupted process waits for its downloads to end.
_GRACE = 0.5


def fetch_many(
    asset_ids: Sequence[str],
    *,
    registry: Mapping[str, Asset] | None = None,
    cache: str | os.PathLike[str] | None = None,
    transfer: Transfer | None = None,
    parallel: int = 4,
) -> dict[str, Path]:
    """Fetches several assets in parallel; see :func:`fetch`.

    All are tried even if one fails. An interrupt ends all of them; received bytes are kept for the next try.

    Raises:
        UserError: An asset is missing. For several missing assets every reason is printed, and the message has their
            number.
    """
    assets = dict(load_registry() if registry is None else registry)
    for asset_id in asset_ids:
        find_asset(assets, asset_id)
    transfer = dataclasses.replace(transfer or Transfer(), stop=threading.Event())
    waiting = collections.deque(dict.fromkeys(asset_ids))
    ended: queue.SimpleQueue[tuple[str, Path | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while waiting and not transfer.stop.is_set():
            try:
                asset_id = waiting.popleft()
            except IndexError:
                return
            try:
                path = fetch(asset_id, registry=assets, cache=cache, transfer=transfer, slots=parallel)
                ended.put((asset_id, path))
            except BaseException as error:
                ended.put((asset_id, error))

    count = len(waiting)
    # Daemon threads: an interrupted process does not wait for their connections (executors join their threads).
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(count, max(1, parallel)))]
    for thread in threads:
        thread.start()
    try:
        paths, faults = _gather(ended, count)
    finally:
        transfer.stop.set()
        for thread in threads:
            thread.join(_GRACE / len(threads))
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        for fault in sorted(faults):
            say(fault)
        raise UserError(f"{len(faults)} of {count} assets are missing (listed above)")
    return {asset_id: paths[asset_id] for asset_id in asset_ids}


def _gather(
    ended: queue.SimpleQueue[tuple[str, Path | BaseException]], count: int
) -> tuple[dict[str, Path], list[str]]:
    """Collects paths and errors of ``count`` assets; raises every other exception."""
    paths, faults = {}, []
    for _ in range(count):
        asset_id, result = ended.get()
        if isinstance(result, Path):
            paths[asset_id] = result
        elif isinstance(result, UserError):
            faults.append(str(result))
        else:
            raise result
    return paths, faults
