"""Download of one file over HTTP(S): resumes, retries, tries mirrors, and checks the result.

The standard library reads the answers: it bounds the lines and the number of headers and the lines between chunks,
where urllib3 (requests, pooch) reads on. pooch resumes nothing, and huggingface_hub resumes only files of the Hub.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import os
import random
import re
import shutil
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from sida.assets.registry import Asset, address_fault, hub_token
from sida.errors import PassingError, Progress, UserError, say
from sida.files.atomic import sha256_file, write_text
from sida.files.content import START, placeholder_in
from sida.files.ordinary import read_ordinary

_CHUNK, _REDIRECTS, _ATTEMPTS, _LONGEST_PAUSE = 1 << 18, 10, 100, 30.0
#: Statuses of answers after which another attempt may succeed, besides those from 500.
_TRANSIENT = {408, 425, 429}
#: Bytes before the first new one that are compared where the hash of a file is unknown.
_COMPARED = 1 << 16
#: Limit in bytes of a file whose size is not registered.
SIZE_LIMIT = 64 * 10**9
#: Free bytes of the disk that the body of a file of unknown length needs.
_ROOM = 1 << 30
_SPACE = "free some space or set SIDA_CACHE to another folder"
#: A strong name of a version: files of equal names are equal in every byte (RFC 9110, 8.8.3).
_STRONG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')


class BrokenError(Exception):
    """The attempt failed, but another one may succeed."""


class NoHostError(BrokenError):
    """The name of the host has no address, as without a network."""


class HopelessError(Exception):
    """This URL cannot give the file; a mirror may."""


class GoneError(HopelessError):
    """The server has no such file for this user: a status of the kind of 404, or a page in place of the file."""


class ExhaustedError(HopelessError):
    """All attempts at this URL failed, but later ones may succeed."""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Settings of downloads: attempts, pauses, limits.

    Attributes:
        attempts: Attempts in a row with fewer than ``least`` new bytes after which the next URL is tried.
        backoff: Seconds before the second attempt; doubled each time, at most 30.
        timeout: Seconds without any byte after which a connection counts as broken.
        least: See ``attempts``.
    """

    attempts: int = 5
    backoff: float = 1.0
    timeout: float = 30.0
    least: int = 1 << 20


class Download:
    """Download of an asset into ``<file>.part`` in the cache; continues the part that an earlier attempt left.

    A note beside that file has the URL and version of its bytes. If the hash of the asset is unknown, a file joined
    from two versions could go unnoticed. Then a download is resumed only where the server names the version by a strong
    ETag, says that the rest is of this version, and sends the last 64 KiB before the rest as they have arrived.

    Args:
        asset: The asset.
        sha256: Expected hash; empty if unknown.
        transfer: Settings of the download.
    """

    def __init__(self, asset: Asset, sha256: str = "", transfer: Transfer | None = None) -> None:
        self.asset, self.sha256, self.transfer = asset, sha256, transfer or Transfer()
        self.target = asset.path
        self.part, self._note = (asset.path.with_name(f"{asset.path.name}.{end}") for end in ("part", "part.etag"))

    @property
    def arrived(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    def remove(self) -> None:
        """Removes the unfinished file and the notes beside it."""
        for path in (self.part, self._note, absence_note(self.asset)):
            path.unlink(missing_ok=True)

    def run(self) -> tuple[str, str]:
        """Makes the complete, checked file at the target; returns ``(sha256, url)``.

        Raises:
            UserError: No URL gave the file; the message has the reasons, and received bytes are kept for the next try.
                It is a :class:`PassingError` if a later try may succeed. If no server has the file, a note in the cache
                says so (:func:`sida.assets.cache.absence`).
        """
        reasons, kinds = [], set()
        for url in self.asset.urls:
            try:
                path = self._from_url(url)
            except HopelessError as error:
                reasons.append(f"{url.split('/')[2]}: {error}")
                kinds.add(type(error))
                continue
            with open(self.part, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(self.part, self.target)
            self.remove()
            return path, url
        manual = f"get {self.asset.urls[0]} elsewhere and put it at {self.target}"
        fault = f"asset '{self.asset.id}' could not be downloaded ({'; '.join(reasons)})"
        if kinds == {GoneError}:
            write_text(absence_note(self.asset), f"{time.time()}\n{'; '.join(reasons)}")
            raise UserError("", fault, manual)
        kind = PassingError if ExhaustedError in kinds else UserError
        raise kind("", fault, f"run the command again to continue, or {manual}")

    def _from_url(self, url: str) -> str:
        """All attempts at one URL; returns the hash of the complete file."""
        idle, transfer = 0, self.transfer
        for attempt in range(_ATTEMPTS):
            before = self.arrived
            try:
                resumed = self._attempt(url)
                digest, fault = hash_and_fault(self.part, self.asset, self.sha256)
                if not fault:
                    return digest
                self.remove()
                if not resumed:
                    raise HopelessError(f"the server's file {fault}")
                raise BrokenError(f"the joined file {fault}; starting over")
            except BrokenError as error:
                if isinstance(error, NoHostError) and not attempt:  # later on a lookup may fail for a moment
                    raise ExhaustedError(str(error)) from None
                idle = 0 if self.arrived - before >= transfer.least else idle + 1
                if idle >= transfer.attempts:
                    raise ExhaustedError(f"{error} ({idle} attempts)") from None
                # Random, so that jobs that failed at once do not try again at once.
                wait = min(_LONGEST_PAUSE, transfer.backoff * 2**idle) * random.uniform(0.75, 1.25)
                say(f"[fetch {self.asset.id}] {error}; trying again in {wait:.1f}s")
                time.sleep(wait)
        raise ExhaustedError(f"no complete file in {_ATTEMPTS} attempts")

    def _attempt(self, url: str) -> bool:
        """Sends a request that starts or continues the file; returns whether it continued it, once all has arrived."""
        if self.part.is_symlink() or not self.part.is_file():  # a link would redirect the bytes
            self.part.unlink(missing_ok=True)
        version = self._version(url)
        # Without a hash the last bytes are requested again, to compare them with the bytes that have arrived.
        begin = self.arrived
        if not self.sha256:
            begin = max(0, self.arrived - _COMPARED) if version else 0
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        headers |= {"If-Range": version} if begin and version else {}
        with (
            _broken_connections(),
            contextlib.closing(open_url(_opener().open, url, headers, self.transfer.timeout)) as answer,
        ):
            # There is nothing beyond the bytes that have arrived.
            if begin and answer.status == 416 and answer.headers.get("Content-Range") == f"bytes */{begin}":
                return True
            start, total = self._accepted(answer, begin, version)
            if not start:
                with _disk(self.part):
                    self.part.write_bytes(b"")
                    write_text(self._note, f"{url}\n{answer.headers.get('ETag', '')}")
            self._compare(answer, start)
            self._receive(answer, self.arrived, total)
        if total is not None and self.arrived < total:
            raise BrokenError(f"connection broke after {self.arrived:,} of {total:,} bytes")
        return start > 0

    def _version(self, url: str) -> str:
        """Version of the bytes that have arrived, if they came from this URL; empty if it is unknown."""
        with contextlib.suppress(UserError, ValueError):
            noted, version = read_ordinary(self._note, 1 << 14).decode().split("\n")
            return version if noted == url and _STRONG.fullmatch(version) else ""
        return ""

    def _accepted(self, answer: Any, begin: int, version: str) -> tuple[int, int | None]:
        """Checks status, form and announced length; returns ``(first byte of the body, total length or None)``."""
        status, headers, asset = answer.status, answer.headers, self.asset
        if status in _TRANSIENT or status >= 500:
            raise BrokenError(f"the server answered {status}")
        if status not in (200, 206, 416):
            private = asset.hub is not None and status in (401, 403)
            remedy = "; for a private or gated repository set HF_TOKEN or run `hf auth login`" if private else ""
            raise (GoneError if status >= 400 else HopelessError)(f"the server answered {status}{remedy}")
        start, total = 0, _number(headers.get("Content-Length"))
        if status != 200:
            content_range = re.fullmatch(
                r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", headers.get("Content-Range", "")
            )
            if not content_range or int(content_range[1]) != begin or (version and headers.get("ETag") != version):
                self.remove()
                raise BrokenError("the server has another part or another version than asked for; starting over")
            start, total = begin, int(content_range[2])
        # An answer that cannot be the file must not replace the bytes that have arrived.
        if headers.get("Content-Type", "").lower().startswith("text/html"):
            raise GoneError("the server sent a web page instead of the file")
        packed = headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in ("", "identity") and not asset.target.endswith(".gz"):
            raise HopelessError(f"the server sends it compressed (Content-Encoding: {packed}), which was not asked for")
        has_limit = asset.size or self.sha256 or "chunked" in headers.get("Transfer-Encoding", "")
        if total is None and not has_limit:
            raise HopelessError("the length of the file is unknown, so a cut-off copy would go unnoticed")
        if total is not None and (total > (asset.size or SIZE_LIMIT) or total != (asset.size or total)):
            raise self._other_size(f"the file has {total:,} bytes there")
        return start, total

    def _other_size(self, fault: str) -> HopelessError:
        size = self.asset.size
        rule = f"{size:,} are registered" if size else f"and without a registered size at most {SIZE_LIMIT:,}"
        return HopelessError(f"{fault}, {rule}")

    def _compare(self, answer: Any, start: int) -> None:
        """Compares the body up to the first new byte with the bytes that have arrived."""
        with open(self.part, "rb") as stream:
            stream.seek(start)
            while old := stream.read(_CHUNK):
                if answer.read(len(old)) != old:
                    self.remove()
                    raise BrokenError("the server's file is not the one whose beginning has arrived; starting over")

    def _receive(self, answer: Any, start: int, total: int | None) -> None:
        path, limit, arrived = self.part, total or self.asset.size or SIZE_LIMIT, start
        megabytes = (total or self.asset.size or 0) / 1e6
        progress = Progress(f"fetch {self.asset.id}", megabytes, "MB", done=start / 1e6, interval=5)
        # read1 returns the bytes that have arrived; a larger read would lose them when the connection breaks.
        while chunk := answer.read1(_CHUNK):
            size = _ROOM if total is None else total - arrived
            if (free := shutil.disk_usage(path.parent).free) < size:
                raise PassingError(path, f"{free:,} bytes are free, {size:,} are needed", _SPACE)
            arrived += len(chunk)
            if arrived > limit:
                self.remove()
                raise self._other_size(f"the server sends more than {limit:,} bytes")
            with _disk(path), open(path, "ab") as stream:
                stream.write(chunk)
            progress.update(arrived / 1e6)


def absence_note(asset: Asset) -> Path:
    """Path of the note that no server had an asset's file: the time of the attempt, and the servers' answers."""
    return asset.path.with_name(f"{asset.path.name}.absent")


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns errors of the disk in the block into UserError; the caller takes other OSErrors for a broken connection."""
    try:
        yield
    except OSError as error:
        raise PassingError(path, error.strerror, _SPACE) from None


@contextlib.contextmanager
def _broken_connections() -> Iterator[None]:
    """Turns errors of a connection in the block into :class:`BrokenError`."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, socket.gaierror):
            raise NoHostError("this host is not known here: is there a network?") from None
        raise BrokenError(f"connection failed ({type(reason).__name__})") from None


def _opener() -> urllib.request.OpenerDirector:
    """Opener of connections that returns answers of every status as they are, since it has no handlers of statuses."""
    opener = urllib.request.OpenerDirector()
    secure = urllib.request.HTTPSHandler(context=_certificates())
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), secure):
        opener.add_handler(handler)
    return opener


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Certificates of the system or of ``$REQUESTS_CA_BUNDLE``, and certifi's where it is installed."""
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE"))
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def open_url(ask: Callable[..., Any], url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """Sends a request by ``ask`` and follows its redirects; returns the answer with its body unread.

    The token of the Hub is sent only to the Hub, over https.

    Raises:
        HopelessError: A redirect leads from https to http or to an invalid address, or there are too many.
    """
    first = urlsplit(url)
    for _ in range(_REDIRECTS):
        parts = urlsplit(url)
        token = hub_token(parts.netloc) if (parts.scheme, parts.netloc) == ("https", first.netloc) else None
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
        if parts.scheme == "https" and urlsplit(url).scheme != "https":
            raise HopelessError("the server leads from https to http, where nothing protects the file")
    raise HopelessError(f"more than {_REDIRECTS} redirects")


def hash_and_fault(path: Path, asset: Asset, sha256: str) -> tuple[str, str]:
    """Compares a file with the registered facts of an asset.

    Args:
        path: The file, which exists.
        asset: The asset.
        sha256: Its registered or recorded hash; empty if it is unknown.

    Returns:
        SHA-256 of the file, and its fault in words that follow its name; empty if it has none.
    """
    size, digest = path.stat().st_size, sha256_file(path)
    if digest == sha256:
        return digest, ""
    with open(path, "rb") as stream:
        placeholder = placeholder_in(stream.read(START))
    # A plain text may be the file itself; its size and hash decide.
    plain = ("a text", "JSON") if asset.target.endswith(".json") else ("a text",)
    if placeholder is not None and not placeholder.kind.startswith(plain):
        return digest, f"is {placeholder.kind}, as servers send instead of a file"
    if size != (asset.size or size) or not size:
        return digest, f"has {size:,} bytes" + (f", {asset.size:,} are registered" if asset.size else "")
    if sha256:
        on_first_use = f"recorded in assets.lock (a wrong one: sida assets forget {asset.id})"
        source = "registered" if asset.sha256 else on_first_use
        return digest, f"has the sha256 {digest[:12]}…, {sha256[:12]}… is {source}"
    return digest, ""


def _number(text: str | None) -> int | None:
    # str.isdigit accepts ² and ³, and int() refuses thousands of digits.
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None
