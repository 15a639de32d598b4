"""HTTP for downloads: redirects keep https, credentials go to their own host only, and each answer ends."""

from __future__ import annotations

import contextlib
import http.client
import io
import netrc
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

from sida.assets.cache import cache_dir
from sida.assets.hub import hub_token, offline
from sida.assets.registry import Asset, address_fault, find_asset, load_registry
from sida.errors import UserError

if TYPE_CHECKING:
    from requests import Response, Session


_REDIRECTS = 10
#: Bytes of headers, chunk sizes and trailers, without a byte of the body between them.
_EMPTY = 1 << 20
_TOO_SLOW = "the server sends less than {} bytes in {:g} s"


class BrokenError(Exception):
    """The attempt failed, but another one may succeed.

    Attributes:
        wait: Pause in seconds that the server asked for.
        slow: Whether the server was too slow; then received bytes are no sign that it can do better.
    """

    def __init__(self, reason: str, wait: float = 0.0, slow: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.slow = wait, slow


class HopelessError(Exception):
    """The URL does not give the file; a mirror may."""


def new_session(window: float, least: int) -> Session:
    """A session whose answers bring at least ``least`` bytes in each ``window`` of seconds, headers included."""
    import requests
    import urllib3
    from requests.adapters import HTTPAdapter

    class Answer(http.client.HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self._pace = _Pace(self.fp.detach(), window, least)
            self.fp = io.BufferedReader(self._pace)

        def read1(self, n: int = -1) -> bytes:
            chunk = super().read1(n)
            self._pace.empty = 0
            return chunk

    class Plain(urllib3.connection.HTTPConnection):
        response_class = Answer

    class Secure(urllib3.connection.HTTPSConnection):
        response_class = Answer

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*args, **options)
            manager.pool_classes_by_scheme = pools
            return manager

    class Direct(requests.Session):
        def get_redirect_target(self, resp: Response) -> None:
            """No target: `open_url` follows redirects, and reads no body of theirs."""

    session = Direct()
    session.headers["Accept-Encoding"] = "identity"
    for scheme in ("https://", "http://"):
        session.mount(scheme, Adapter())
    return session


def open_url(session: Session, url: str, headers: dict[str, str], timeout: float) -> Response:
    """Sends a request and follows its redirects; returns the answer with its body unread.

    Credentials of ``~/.netrc``, and the token of the Hub, are those of the URL's host, and are sent to this host alone,
    over https.

    Raises:
        HopelessError: A redirect leads from https to http, to no address, or to more redirects.
    """
    first = place = urlsplit(url)
    for _ in range(_REDIRECTS):
        trusted = (place.scheme, place.netloc) == ("https", first.netloc)
        token = hub_token(first.netloc) if trusted else None
        auth = _credentials(first.hostname or "") if trusted and not token else None
        sent = {**headers, "Authorization": f"Bearer {token}"} if token else headers
        # A function in the place of no credentials: requests itself would look into ~/.netrc.
        response = session.get(url, headers=sent, auth=auth or (lambda it: it), stream=True, timeout=timeout)
        target = response.headers.get("Location")
        if response.status_code not in (301, 302, 303, 307, 308) or not target:
            return response
        response.close()
        url = urljoin(url, target).partition("#")[0]
        if fault := address_fault(url):
            raise HopelessError(f"the server leads to an address that {fault}")
        if place.scheme == "https" and urlsplit(url).scheme != "https":
            raise HopelessError("the server leads from https to http, where nothing protects the file")
        place = urlsplit(url)
    raise HopelessError(f"more than {_REDIRECTS} redirects")


def _credentials(host: str) -> tuple[str, str] | None:
    """Name and password for a host; the entry `default` of ``~/.netrc`` is for none."""
    with contextlib.suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
        known = netrc.netrc(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")).hosts
        if host != "default" and host in known:
            login, account, password = known[host]
            return login or account, password
    return None


class _Pace(io.RawIOBase):
    """Bytes of an answer as they arrive; ends one that crawls, or consists of headers without end."""

    def __init__(self, raw: io.RawIOBase, window: float, least: int) -> None:
        self._raw, self._window, self._least = raw, window, least
        self._since, self._arrived, self.empty = time.monotonic(), 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._arrived += count or 0
        self.empty += count or 0
        if self.empty > _EMPTY + len(buffer):
            raise HopelessError("the server sends headers without end, and no file")
        if time.monotonic() - self._since > self._window:
            if count and self._arrived < self._least:
                raise BrokenError(_TOO_SLOW.format(f"{self._least:,}", self._window), slow=True)
            self._since, self._arrived = time.monotonic(), 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


#: Seconds in which a host must accept a connection.
PATIENCE = 3.0


def unreachable(
    names: Iterable[str], *, registry: Mapping[str, Asset] | None = None, cache: str | os.PathLike[str] | None = None
) -> UserError | None:
    """The one fault of missing assets that cannot be downloaded here; None if there are none, or a host answers.

    Args:
        names: Ids in the registry.
        registry: Assets by id; ``None`` reads :func:`sida.assets.registry.default_registry`.
        cache: Cache folder; ``None`` for :func:`sida.assets.cache.cache_dir`.
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
        return None
    why = "SIDA_OFFLINE is set" if offline() else "no host of theirs can be reached"
    ids = " ".join(sorted(asset.id for asset in missing))
    remedy = f"run `sida assets fetch {ids}` on a computer with internet, and copy its cache here"
    return UserError(f"missing in {folder}", f"{ids} ({why})", remedy)


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False
