"""Check before a run downloads: without a network one line names all missing files, before attempts cost minutes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies

from sida.assets.cache import cache_dir
from sida.assets.hub import offline
from sida.assets.registry import Asset, find_asset, load_registry
from sida.errors import UserError

#: Seconds in which a host must accept a connection.
PATIENCE = 3.0


def check_reachable(
    names: Iterable[str],
    *,
    registry: Mapping[str, Asset] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> None:
    """Checks that missing assets can be asked for: some host of theirs accepts a connection, or there is a proxy.

    Args:
        names: Ids in the registry.
        registry: Assets by id; ``None`` reads :func:`sida.assets.registry.default_registry`.
        cache: Cache folder; ``None`` for :func:`sida.assets.cache.cache_dir`.

    Raises:
        UserError: The network is forbidden, or no host answers; the line names all missing assets.
    """
    folder, known = str(cache or cache_dir()), dict(load_registry() if registry is None else registry)
    assets = [asset for asset in (find_asset(known, name) for name in names) if asset.urls]
    missing = [asset for asset in assets if not os.path.exists(os.path.join(folder, asset.target))]
    hosts = {
        (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
        for asset in missing
        for parts in map(urlsplit, asset.urls)
    }
    if not missing or (not offline() and (getproxies() or any(_accepts(*host) for host in sorted(hosts)))):
        return
    why = "SIDA_OFFLINE is set" if offline() else "no host of theirs can be reached"
    ids = " ".join(asset.id for asset in missing)
    raise UserError(
        f"missing in {folder}: {ids} ({why}); run `sida assets fetch {ids}` on a computer with "
        "internet, and copy its cache here"
    )


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False
