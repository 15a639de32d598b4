"""A local HTTP server that misbehaves on request, and a client of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sida.assets import cache
from sida.assets.cache import LOCK_FILE, fetch
from sida.assets.download import Transfer
from sida.assets.registry import ASSET_COLUMNS, Asset

BODY = bytes(range(256)) * 1200
SHA = hashlib.sha256(BODY).hexdigest()
HASTY = Transfer(attempts=3, backoff=0.001, timeout=0.5)


def one(url: str, target: str = "some/net.pkl", **options) -> dict[str, Asset]:
    """A registry of one network."""
    return {"net": Asset(id="net", kind="network", url=url, target=target, **options)}


@contextlib.contextmanager
def using(registry: dict[str, Asset], folder: Path) -> Iterator[None]:
    """The registry and the cache of the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "load_registry", lambda: registry)
        patch.setenv("SIDA_CACHE", str(folder))
        yield


def get(registry: dict[str, Asset], folder: Path, transfer: Transfer = HASTY) -> Path:
    with using(registry, folder):
        return fetch("net", transfer)


def write_registry(path: Path, *rows: dict[str, str], columns: Sequence[str] = ASSET_COLUMNS) -> Path:
    """A registry of downloads as a file."""
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def records(folder: Path) -> dict:
    """What a cache knows of its files."""
    return json.loads((folder / LOCK_FILE).read_text())


@dataclasses.dataclass
class Page:
    """A file and how it is served; ``faults`` are used up one per request, then the file is served well."""

    body: bytes
    faults: list = dataclasses.field(default_factory=list)
    ranges: bool = True
    etag: bool = True
    length: bool = True
    chunked: bool = False
    headers: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Site:
    url: str
    pages: dict[str, Page] = dataclasses.field(default_factory=dict)
    requests: list = dataclasses.field(default_factory=list)
    #: Bytes of endless bodies.
    sent: int = 0

    def add(self, name: str, body: bytes, **options) -> str:
        self.pages[f"/{name}"] = Page(body, **options)
        return f"{self.url}/{name}"

    def asked(self, name: str) -> list:
        """The Range headers of all requests for a file."""
        return [wanted for path, wanted in self.requests if path == f"/{name}"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        site = self.server.site
        site.requests.append((self.path, self.headers.get("Range")))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer(site.pages.get(self.path))

    def end_headers(self) -> None:
        self.send_header("Connection", "close")
        super().end_headers()

    def _answer(self, page: Page | None) -> None:
        self.close_connection = True
        faults = [("status", 404)] if page is None else page.faults
        kind, *values = faults.pop(0) if faults else ("ok",)
        if kind == "status":
            self._plain(*values)
        else:
            self._file(page, kind, *values)

    def _plain(self, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", "5")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"sorry")

    def _file(self, page: Page, kind: str = "ok", *values) -> None:
        etag = f'"{hashlib.md5(page.body).hexdigest()}"'
        start = 0
        wanted = self.headers.get("Range")
        fresh = kind == "any condition" or self.headers.get("If-Range") in (None, etag)
        if page.ranges and wanted and fresh:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(page.body):
                page_of_nginx = ("Content-Type", "text/html")
                self._plain(416, [("Content-Range", f"bytes */{len(page.body)}"), page_of_nginx])
                return
            self.send_response(206)
            first = start if kind != "wrong range" else start + 1
            self.send_header("Content-Range", f"bytes {first}-{len(page.body) - 1}/{len(page.body)}")
        else:
            self.send_response(200)
        body = page.body[start:]
        if page.etag:
            self.send_header("ETag", etag)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.chunked:
            self._chunks(body, kind == "endless")
            return
        if page.length:
            self.send_header("Content-Length", str(len(body) + (values[0] if kind == "wrong length" else 0)))
        self.end_headers()
        if kind == "cut":
            self.wfile.write(body[: values[0]])
        elif kind == "slow":
            for begin in range(0, len(body), values[0]):
                time.sleep(values[1])
                self.wfile.write(body[begin : begin + values[0]])
        elif kind == "stall":
            self.wfile.write(body[: values[0]])
            self.wfile.flush()
            time.sleep(values[1])
        else:
            self.wfile.write(body)

    def _chunks(self, body: bytes, endless: bool) -> None:
        """The body in pieces of which no length is announced; an endless one begins again and again."""
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            if not endless:
                break
            self.server.site.sent += len(body)
        self.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
