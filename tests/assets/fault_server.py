"""A local HTTP server that misbehaves on request, and a client of it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from sida.assets import cache
from sida.assets.cache import LOCK_FILE, fetch
from sida.assets.download import Transfer
from sida.assets.registry import ASSET_COLUMNS, Asset

BODY = bytes(range(256)) * 1200
SHA = hashlib.sha256(BODY).hexdigest()
HASTY = Transfer(attempts=3, backoff=0.001, timeout=0.5)


@contextlib.contextmanager
def using(registry: dict[str, Asset], folder: Path) -> Iterator[None]:
    """The registry and the cache of the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "load_registry", lambda: registry)
        patch.setenv("SIDA_CACHE", str(folder))
        yield


def get(url: str, folder: Path, transfer: Transfer = HASTY, target: str = "some/net.pkl", **known) -> Path:
    """Fetches the one network of a registry, which has so much ``known`` of it."""
    with using({"net": Asset("net", "network", url, target, **known)}, folder):
        return fetch("net", transfer)


def write_registry(path: Path, *rows: dict[str, str]) -> Path:
    """A registry of downloads as a file."""
    lines = [ASSET_COLUMNS, *([row.get(name, "") for name in ASSET_COLUMNS] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def use_registry(monkeypatch: pytest.MonkeyPatch, folder: Path, *rows: dict[str, str]) -> Path:
    """A registry file and a cache of the command's own in a folder."""
    monkeypatch.setenv("SIDA_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SIDA_ASSETS", str(path := write_registry(folder / "assets.tsv", *rows)))
    return path


def records(folder: Path) -> dict:
    """What a cache knows of its files."""
    return json.loads((folder / LOCK_FILE).read_text())


class Site:
    """The server's files and what was asked of it."""

    def __init__(self, url: str) -> None:
        self.url, self.pages, self.requests = url, {}, []

    def add(
        self, name: str, body: bytes, faults: Sequence = (), ranges: bool = True, headers: dict | None = None
    ) -> str:
        """Adds a file; ``faults`` are used up one per request, then it is served well. A header of None is not sent."""
        page = SimpleNamespace(body=body, faults=[*faults], ranges=ranges, headers=headers or {})
        self.pages[f"/{name}"] = page
        return f"{self.url}/{name}"

    def asked(self, name: str) -> list:
        """The Range headers of all requests for a file."""
        return [wanted for path, wanted in self.requests if path == f"/{name}"]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        site = self.server.site
        site.requests.append((self.path, self.headers.get("Range")))
        page = site.pages.get(self.path)
        faults = page.faults if page else [("status", 404)]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer(page, *(faults.pop(0) if faults else ("ok",)))

    def _begin(self, status: int, headers: dict) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def _answer(self, page: SimpleNamespace | None, kind: str, *values) -> None:
        if kind == "status":
            status, *headers = values
            self._begin(status, dict(headers))
            self.wfile.write(b"sorry")
            return
        whole, etag, start = len(page.body), f'"{hashlib.md5(page.body).hexdigest()}"', 0
        fresh = kind == "any condition" or self.headers.get("If-Range") in (None, etag)
        if page.ranges and fresh and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        if start >= whole > 0:
            self._begin(416, {"Content-Range": f"bytes */{whole}", "Content-Type": "text/html"})  # as nginx does
            return
        length = whole - start + (values[0] if kind == "wrong length" else 0)
        headers = {"ETag": etag, "Content-Length": length, **page.headers}
        if start:
            headers["Content-Range"] = f"bytes {start + (kind == 'wrong range')}-{whole - 1}/{whole}"
        self._begin(206 if start else 200, headers)
        for pause, piece in pieces(page.body[start:], page.headers.get("Transfer-Encoding"), kind, *values):
            time.sleep(pause)
            self.wfile.write(piece)


def pieces(
    body: bytes, chunked: str | None, kind: str, size: int = 0, pause: float = 0
) -> Iterator[tuple[float, bytes]]:
    """A body as it is sent: pauses, and bytes that follow them; an endless one begins again and again."""
    if chunked:
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        return itertools.repeat((0, chunk)) if kind == "endless" else iter([(0, chunk + b"0\r\n\r\n")])
    if kind == "slow":
        return ((pause, body[at : at + size]) for at in range(0, len(body), size))
    return iter([(0, body[:size]), (pause, b"")] if kind in ("cut", "stall") else [(0, body)])


@contextlib.contextmanager
def serve(handler: type[Handler] = Handler) -> Iterator[Site]:
    """A server of this machine; ``handler`` answers its requests."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
