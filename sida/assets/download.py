"""Download of one file over HTTP(S): resumes, retries, tries mirrors, checks the result, and ends answers that crawl.

The standard library reads the answers: it bounds the lines and the number of headers and the lines between chunks,
where urllib3 (requests, pooch) reads on. pooch resumes nothing, and huggingface_hub resumes files of the Hub alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urljoin, urlsplit

from sida.assets.hub import hub_token
from sida.assets.registry import Asset, address_fault
from sida.errors import Progress, UserError, say
from sida.files.atomic import sha256_file, write_json
from sida.files.ordinary import read_ordinary

_CHUNK, _REDIRECTS, _LONGEST_PAUSE = 1 << 18, 10, 30.0
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
#: An MD5 or SHA-256, by which object stores name versions.
_DIGEST = "[0-9a-f]{32}|[0-9a-f]{64}"
#: Bytes that a body of unknown length leaves free on the disk.
_ROOM = 1 << 30


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


class StoppedError(Exception):
    """All downloads were asked to end."""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Settings of downloads: attempts, pauses, limits.

    Attributes:
        attempts: Attempts in a row without a new byte after which the next URL is tried.
        total_attempts: Largest number of attempts per URL.
        backoff: Seconds before the second attempt; doubled each time, at most 30.
        timeout: Seconds without any byte after which a connection counts as broken.
        window: Seconds in each of which an answer must bring at least ``least`` bytes of the file; so a file takes at
            most ``size / least`` windows.
        least: See ``window``.
        largest: Limit in bytes of a file whose size is not registered; None: $SIDA_MAX_DOWNLOAD gigabytes, or 64.
        stop: Event with which another thread ends the download; received bytes are kept.
    """

    attempts: int = 5
    total_attempts: int = 100
    backoff: float = 1.0
    timeout: float = 30.0
    window: float = 60.0
    least: int = 1 << 20
    largest: int | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event, compare=False)

    def pause(self, seconds: float) -> None:
        """Waits, unless the download is to end.

        Raises:
            StoppedError: ``stop`` is set.
        """
        if self.stop.wait(seconds):
            raise StoppedError

    @property
    def most(self) -> int:
        """Limit in bytes of a file whose size is not registered."""
        if self.largest is not None:
            return self.largest
        text = os.environ.get("SIDA_MAX_DOWNLOAD") or "64"
        if not re.fullmatch(r"\d{1,9}", text):
            raise UserError("SIDA_MAX_DOWNLOAD", f"'{text}' must be a whole number of gigabytes")
        return int(text) * 10**9


class Part:
    """An unfinished download, ``<target>.part`` in the cache, with a note of its origin.

    If the hash of the file is unknown, a file joined from two versions would go unnoticed. Then a download is resumed
    only where the server names the version by a digest, with which the complete file is compared.

    Args:
        target: Place of the complete file.
    """

    def __init__(self, target: Path) -> None:
        self.path, self._note = (target.with_name(f"{target.name}.part{end}") for end in ("", ".json"))

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> dict[str, Any]:
        """Origin of the bytes: ``url``, the ``digest`` in the server's name of the version, and whether they came in
        several answers (``joined``).
        """
        with contextlib.suppress(UserError, ValueError, RecursionError):
            note = json.loads(read_ordinary(self._note, 1 << 14))
            if isinstance(note, dict) and re.fullmatch(_DIGEST, str(note.get("digest"))):
                return note
        return {}

    def resume(self, url: str, known: bool) -> tuple[int, str]:
        """Number of bytes to keep, and the digest of their version."""
        for path in (self.path, self._note):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                path.unlink()
        origin = self.origin
        digest = origin["digest"] if origin.get("url") == url else ""
        return (self.size if known or digest else 0), digest

    def note(self, url: str, headers: Mapping[str, str], joined: bool) -> None:
        """Notes the origin of the bytes that follow; a file that is not joined begins anew."""
        if not joined:
            self.path.unlink(missing_ok=True)
        digest = re.fullmatch(f'"({_DIGEST})"', headers.get("ETag", ""))
        write_json(self._note, {"url": url, "digest": digest[1] if digest else "", "joined": joined})

    def remove(self) -> None:
        """Removes the unfinished download and its note."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Flushes the checked file to disk and renames it to ``target``."""
        with open(self.path, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, target)
        self.remove()


def download(asset: Asset, part: Part, sha256: str, transfer: Transfer) -> tuple[str, str]:
    """Downloads an asset into ``part``, which may hold its beginning from an earlier try.

    Args:
        asset: The asset.
        part: Unfinished file beside the target.
        sha256: Expected hash; empty if unknown.
        transfer: Settings of the download.

    Returns:
        ``(sha256, url)`` of the complete, checked file.

    Raises:
        UserError: No URL gave the file; the message has the reasons, and received bytes are kept for the next try.
        StoppedError: ``transfer.stop`` was set.
    """
    reasons = []
    for url in asset.urls:
        try:
            return _from_url(asset, url, part, sha256, transfer), url
        except HopelessError as error:
            reasons.append(f"{url.split('/')[2]}: {error}")
    name = part.path.name.removesuffix(".part")
    remedy = f"run the command again to continue, or put '{name}' into {part.path.parent} by hand"
    raise UserError("", f"asset '{asset.id}' could not be downloaded ({'; '.join(reasons)})", remedy)


def _from_url(asset: Asset, url: str, part: Part, sha256: str, transfer: Transfer) -> str:
    """All attempts at one URL; returns the hash of the complete file."""
    idle = 0
    for _ in range(transfer.total_attempts):
        before = part.size
        try:
            resumed = _attempt(asset, url, part, bool(sha256), transfer)
            found, fault = _judged(asset, part, sha256)
            if fault is None:
                return found
            part.remove()
            if not resumed:
                raise HopelessError(fault)
            raise BrokenError(f"{fault}; starting over")
        except BrokenError as error:
            idle = 0 if part.size > before and not error.slow else idle + 1
            if idle >= transfer.attempts:
                raise HopelessError(f"{error} ({idle} attempts)") from None
            wait = min(_LONGEST_PAUSE, transfer.backoff * 2**idle) * random.uniform(0.75, 1.25)
            wait = max(wait, min(error.wait, 2 * _LONGEST_PAUSE))
            say(f"[fetch {asset.id}] {error}; trying again in {wait:.1f}s")
            transfer.pause(wait)
    raise HopelessError(f"no complete file in {transfer.total_attempts} attempts")


def _attempt(asset: Asset, url: str, part: Part, known: bool, transfer: Transfer) -> bool:
    """One request that starts or continues the file; returns, when all of it has arrived, whether it was continued."""
    done, digest = part.resume(url, known)
    headers = {"Range": f"bytes={done}-"} if done else {}
    if done and digest:
        headers["If-Range"] = f'"{digest}"'
    start, total, fault = 0, None, ""
    with _Watch(transfer) as watch:
        try:
            with contextlib.closing(open_url(watch.open, url, headers, transfer.timeout)) as answer:
                if answer.status == 416 and answer.headers.get("Content-Range", "") == f"bytes */{done}":
                    return True
                start, total = _accepted(answer, done, digest, part, asset, known, transfer)
                part.note(url, {"ETag": f'"{digest}"'} if start and digest else answer.headers, start > 0)
                _receive(answer, part, start, total, asset, transfer, watch)
        except HopelessError:
            if not watch.ended:  # an answer that was ended in its headers has none
                raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = f"connection failed ({type(getattr(error, 'reason', error)).__name__})"
    transfer.pause(0)
    if watch.slow:
        raise BrokenError(f"the server sends less than {transfer.least:,} bytes in {transfer.window:g} s", slow=True)
    if fault:
        raise BrokenError(fault)
    if total is not None and part.size < total:
        raise BrokenError(f"connection broke after {part.size:,} of {total:,} bytes")
    return start > 0


class _Watch(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Connections that end when the file does not arrive, whatever else does, and when downloads are to end."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(context=_certificates())
        self.transfer, self.arrived, self.slow = transfer, 0, False
        self.open: Callable[..., Any] = urllib.request.build_opener(self, _AsItIs).open
        self._sockets: list[Any] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def http_open(self, req: Any) -> Any:
        """Opens a connection."""
        return self.do_open(self._made(http.client.HTTPConnection), req)

    def https_open(self, req: Any) -> Any:
        """Opens a connection."""
        made = self._made(http.client.HTTPSConnection)
        return self.do_open(made, req, context=self._context)  # type: ignore[attr-defined]

    def _made(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        def made(*args: Any, **options: Any) -> http.client.HTTPConnection:
            connection = kind(*args, **options)
            connect = connection.connect

            def watched() -> None:
                connect()
                self._sockets.append(connection.sock)

            connection.connect = watched  # type: ignore[method-assign]
            return connection

        return made

    @property
    def ended(self) -> bool:
        """Whether the connections were ended."""
        return self.slow or self.transfer.stop.is_set()

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        before, since = 0, time.monotonic()
        while not self._ended.wait(0.05):
            if time.monotonic() - since > self.transfer.window:
                self.slow = self.arrived - before < self.transfer.least
                before, since = self.arrived, time.monotonic()
            if self.ended:
                for sock in self._sockets:
                    with contextlib.suppress(OSError):  # a TLS socket's own shutdown would wait
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Certificates of the system or of ``$REQUESTS_CA_BUNDLE``, and certifi's where it is installed."""
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE"))
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Answers of every status: :func:`open_url` follows redirects, and reads no body of theirs."""

    def http_response(self, request: Any, response: Any) -> Any:
        """The answer."""
        return response

    https_response = http_response


def open_url(ask: Callable[..., Any], url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """Sends a request by ``ask`` and follows its redirects; returns the answer with its body unread.

    The token of the Hub is sent to the Hub alone, over https.

    Raises:
        HopelessError: A redirect leads from https to http, to no address, or to more redirects.
    """
    first = urlsplit(url)
    for _ in range(_REDIRECTS):
        place = urlsplit(url)
        token = hub_token(place.netloc) if (place.scheme, place.netloc) == ("https", first.netloc) else None
        sent = {"Accept-Encoding": "identity", "User-Agent": "sida", **headers}
        sent |= {"Authorization": f"Bearer {token}"} if token else {}
        answer = ask(urllib.request.Request(url, headers=sent), timeout=timeout)
        target = answer.headers.get("Location")
        if answer.status not in (301, 302, 303, 307, 308) or not target:
            return answer
        answer.close()
        url = urljoin(url, target).partition("#")[0]
        if fault := address_fault(url):
            raise HopelessError(f"the server leads to an address that {fault}")
        if place.scheme == "https" and urlsplit(url).scheme != "https":
            raise HopelessError("the server leads from https to http, where nothing protects the file")
    raise HopelessError(f"more than {_REDIRECTS} redirects")


def _accepted(
    answer: Any, done: int, digest: str, part: Part, asset: Asset, known: bool, transfer: Transfer
) -> tuple[int, int | None]:
    """Checks status, form and announced length; returns ``(first byte of the body, total length or None)``."""
    status, headers = answer.status, answer.headers
    if status in _AGAIN:
        raise BrokenError(f"the server answered {status}", float(_number(headers.get("Retry-After")) or 0))
    if status not in (200, 206, 416):
        private = asset.hub is not None and status in (401, 403)
        remedy = "; for a private or gated repository set HF_TOKEN or run `hf auth login`" if private else ""
        raise HopelessError(f"the server answered {status}{remedy}")
    if headers.get("Content-Type", "").lower().startswith("text/html") and not asset.target.endswith(".html"):
        raise HopelessError("the server sent a web page instead of the file")
    packed = headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("", "identity") and not asset.target.endswith((".gz", ".tgz", ".bz2", ".zst")):
        raise HopelessError(f"the server sends it compressed (Content-Encoding: {packed}), which was not asked for")
    start, total = 0, _number(headers.get("Content-Length"))
    if status != 200:
        place = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", headers.get("Content-Range", ""))
        other = digest and headers.get("ETag", f'"{digest}"') != f'"{digest}"'
        if not place or int(place[1]) != done or other or status == 416:
            part.remove()
            raise BrokenError("the server has another part or another version than asked for; starting over")
        start, total = done, int(place[2])
    limit, free = asset.size or transfer.most, shutil.disk_usage(part.path.parent).free
    if total is None and asset.size is None and not known and "chunked" not in headers.get("Transfer-Encoding", ""):
        raise HopelessError("the length of the file is unknown, so a cut-off copy would go unnoticed")
    if total is not None and (total > limit or total != (asset.size or total)):
        should = f"{limit:,} are registered" if asset.size else _at_most(limit)
        raise HopelessError(f"the file has {total:,} bytes there, {should}")
    if total is not None and free < total - start:
        raise UserError(part.path, f"{free:,} bytes are free, {total - start:,} are missing", _SPACE)
    return start, total


_SPACE = "free some space or set SIDA_CACHE to another folder"


def _at_most(limit: int) -> str:
    return f"the limit of a file without registered size is {limit:,} bytes (SIDA_MAX_DOWNLOAD, in gigabytes)"


def _receive(
    answer: Any, part: Part, start: int, total: int | None, asset: Asset, transfer: Transfer, watch: _Watch
) -> None:
    limit = total or asset.size or transfer.most
    progress = Progress(f"fetch {asset.id}", (total or asset.size or 0) / 1e6, "MB", done=start / 1e6, interval=5)
    try:
        stream = open(part.path, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(part.path, error, _SPACE) from None
    with stream:
        # read1 returns the bytes that have arrived; a larger read would lose them when the connection breaks.
        while chunk := answer.read1(_CHUNK):
            transfer.pause(0)
            watch.arrived += len(chunk)
            if start + watch.arrived > limit:
                stream.truncate(0)
                should = f"the {limit:,} bytes it should" if total or asset.size else f"it may: {_at_most(limit)}"
                raise HopelessError(f"the server sends more than {should}")
            free = shutil.disk_usage(part.path.parent).free
            if total is None and asset.size is None and free < _ROOM:
                raise UserError(part.path, f"{free:,} bytes are free, and the file's length is unknown", _SPACE)
            try:
                stream.write(chunk)
                stream.flush()
            except OSError as error:
                raise UserError(part.path, error, _SPACE) from None
            progress.update((start + watch.arrived) / 1e6)


def _judged(asset: Asset, part: Part, sha256: str) -> tuple[str, str | None]:
    """Hash of the complete part, and its fault or None."""
    size = part.size
    if size == 0:
        return "", "the file is empty there"
    found = sha256_file(part.path)
    if found == sha256:
        return found, None
    if other := wrong_content(part.path, asset.target):
        return found, f"the server sent {other} instead of the file"
    if asset.size is not None and size != asset.size:
        return found, f"{size:,} bytes arrived, {asset.size:,} are registered"
    if sha256:
        recorded = "" if asset.sha256 else f"; if the recorded one was wrong: sida assets forget {asset.id}"
        return found, f"wrong content (sha256 {found[:12]}…, {sha256[:12]}… expected{recorded})"
    origin = part.origin
    if origin.get("joined"):
        with open(part.path, "rb") as stream:
            kind = "md5" if len(origin["digest"]) == 32 else "sha256"
            if hashlib.file_digest(stream, kind).hexdigest() != origin["digest"]:
                return found, "the joined parts do not have the digest in the server's ETag"
    return found, None


_TEXTS = {".json", ".txt", ".csv", ".tsv", ".yaml", ".md", ".html", ".xml"}


def wrong_content(path: Path, target: str) -> str | None:
    """Description of a downloaded file that is not the requested one, or None if nothing speaks against it.

    Args:
        path: The downloaded file.
        target: Name in the cache; a web page is right for a target ``.html``.
    """
    with open(path, "rb") as stream:
        head = stream.read(512)
    text, suffix = head.removeprefix(b"\xef\xbb\xbf").lstrip(), PurePath(target).suffix.lower()
    # Binary formats do not begin with such texts.
    if suffix in _TEXTS - {".json"} or b"\0" in head:
        return None
    if text.startswith(b"<"):
        return "a web page"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS"
    return "a message in JSON" if text.startswith(b"{") and suffix != ".json" and head.isascii() else None


def _number(text: str | None) -> int | None:
    # str.isdigit accepts ² and ³, and int() refuses thousands of digits.
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None
