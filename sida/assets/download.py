"""Download of one file over HTTP(S): resumes, retries, tries mirrors, and checks the result.

An unfinished download has a note with the facts needed to resume it. The result must be the requested file, not a web
page, a message, a pointer or a compressed copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import stat
import threading
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from sida.assets.transport import BrokenError, HopelessError, new_session, open_url
from sida.errors import Progress, UserError, say
from sida.files.atomic import sha256_file, write_json

if TYPE_CHECKING:
    from requests import Response, Session

    from sida.assets.registry import Asset


#: Bytes read of a note: more than a URL and a header of the longest kind.
_MOST_NOTE = 1 << 18


class PartialDownload:
    """An unfinished download, ``<target>.part`` in the cache, with a note of its origin.

    Args:
        path: The unfinished file, which may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._note = path, path.with_name(path.name + ".json")

    def remove_others(self) -> None:
        """Removes links, pipes and devices that stand in the place of the unfinished download and its note."""
        for path in (self.path, self._note):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                path.unlink()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> dict[str, Any]:
        """Origin of the bytes: ``url``, ``validator`` (the server's name of the version), ``total`` length, and
        ``resumed`` (whether they came in several answers).
        """
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with open(self._note, "rb") as stream:
                value = json.loads(stream.read(_MOST_NOTE))
            named = value.get("validator", "") if isinstance(value, dict) else None
            if isinstance(named, str) and named.isascii() and named.isprintable():
                return value
        return {}

    def complete(self, url: str, known: bool) -> bool:
        """Whether all bytes of the file at a URL have arrived."""
        origin = self.origin
        return bool(self.size) and self.size == origin.get("total") and (known or origin.get("url") == url)

    def resume(self, url: str, known: bool) -> tuple[int, dict[str, str]]:
        """Number of bytes to keep, and headers that request the rest of the same version.

        If the hash is unknown (``known`` is False), a file joined from two versions would go unnoticed. Then a download
        is resumed only if the validator is a digest, with which the complete file is compared.
        """
        done, origin = self.size, self.origin
        validator = origin.get("validator", "") if origin.get("url") == url else ""
        if not done or not (known or _digest(validator)):
            return 0, {}
        return done, {"Range": f"bytes={done}-"} | ({"If-Range": validator} if validator else {})

    def note(self, url: str, headers: Mapping[str, str], total: int | None, start: int) -> None:
        """Records the origin of the bytes that will be written from byte ``start`` on."""
        named = validator(headers) or (self.origin.get("validator", "") if start else "")
        write_json(self._note, {"url": url, "validator": named, "total": total, "resumed": start > 0})

    def glued(self) -> bool:
        """Whether a resumed file does not have the digest in its validator."""
        origin = self.origin
        if not origin.get("resumed"):
            return False
        wanted = _digest(origin.get("validator", ""))
        with open(self.path, "rb") as stream:
            kind = "md5" if len(wanted) == 32 else "sha256"
            return hashlib.file_digest(stream, kind).hexdigest() != wanted

    def remove(self) -> None:
        """Removes the unfinished download and its note."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Flushes the checked file to disk and renames it to ``target``."""
        with open(self.path, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, target)
        self._note.unlink(missing_ok=True)


def _digest(validator: str) -> str:
    """The MD5 or SHA-256 in a validator, as object stores send it, or an empty text."""
    found = re.fullmatch(r'"([0-9a-f]{32}|[0-9a-f]{64})"', validator)
    return found[1] if found else ""


def validator(headers: Mapping[str, str]) -> str:
    """Name of the file's version in an answer's headers, for ``If-Range``, or an empty text."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


_HEAD = 512
_TEXTS = {".json", ".txt", ".csv", ".tsv", ".yaml", ".md", ".html", ".xml"}
_PACKED = {".gz": ("gzip", "x-gzip"), ".tgz": ("gzip", "x-gzip"), ".bz2": ("bzip2", "x-bzip2"), ".zst": ("zstd",)}


def wrong_content(path: Path, target: str) -> str | None:
    """Description of a downloaded file that is not the requested one, or None if nothing speaks against it.

    Args:
        path: The downloaded file.
        target: Name in the cache; a web page is right for a target ``.html``.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    text, suffix = head.removeprefix(b"\xef\xbb\xbf").lstrip(), PurePath(target).suffix.lower()
    # Binary formats do not begin with such texts.
    if suffix in _TEXTS - {".json"} or b"\0" in head:
        return None
    if text.startswith(b"<"):
        return "a web page"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS"
    return "a message in JSON" if text.startswith(b"{") and suffix != ".json" and head.isascii() else None


def packing(headers: Mapping[str, str], target: str) -> str | None:
    """Compression that the server applied to the file for the transfer, or None.

    For a compressed file, servers may declare the file's own compression, which does not count.
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    own = _PACKED.get(PurePath(target).suffix.lower(), ())
    return encoding if encoding not in ("", "identity", *own) else None


_CHUNK = 1 << 18
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
#: Default of $SIDA_MAX_DOWNLOAD: largest file of unknown size, in gigabytes.
LARGEST = 64
#: Bytes that a body of unknown length leaves free on the disk, and bytes between two checks.
_ROOM, _LOOK = 1 << 30, 1 << 26


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Settings of downloads: attempts, pauses, limits.

    Attributes:
        attempts: Attempts in a row without a new byte after which the next URL is tried.
        total_attempts: Largest number of attempts per URL.
        backoff: Seconds before the second attempt; doubled each time, at most ``max_backoff``.
        max_backoff: Longest pause in seconds.
        timeout: Seconds without any byte after which a connection counts as broken.
        window: Seconds in each of which a connection must bring at least ``least`` bytes; so a file takes at most
            ``size / least`` windows.
        least: See ``window``.
        quiet: Whether to print no progress.
        largest: Limit in bytes of a file whose size is not registered; None: $SIDA_MAX_DOWNLOAD gigabytes, or 64.
        stop: Event with which another thread ends the download; received bytes are kept.
    """

    attempts: int = 5
    total_attempts: int = 100
    backoff: float = 1.0
    max_backoff: float = 30.0
    timeout: float = 30.0
    window: float = 60.0
    least: int = 1 << 20
    quiet: bool = False
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
        text = os.environ.get("SIDA_MAX_DOWNLOAD") or str(LARGEST)
        if not re.fullmatch(r"\d{1,9}", text):
            raise UserError("SIDA_MAX_DOWNLOAD", f"'{text}' must be a whole number of gigabytes")
        return int(text) * 10**9


class StoppedError(Exception):
    """All downloads were asked to end."""


def download(asset: Asset, part: PartialDownload, sha256: str, transfer: Transfer) -> tuple[str, str]:
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
    with new_session(transfer.window, transfer.least) as session:
        for url in asset.urls:
            try:
                return _from_url(session, asset, url, part, sha256, transfer), url
            except HopelessError as error:
                reasons.append(f"{url.split('/')[2]}: {error}")
    name = part.path.name.removesuffix(".part")
    remedy = f"run the command again to continue, or put '{name}' into {part.path.parent} by hand"
    raise UserError("", f"asset '{asset.id}' could not be downloaded ({'; '.join(reasons)})", remedy)


def _from_url(session: Session, asset: Asset, url: str, part: PartialDownload, sha256: str, transfer: Transfer) -> str:
    """All attempts at one URL; returns the hash of the complete file."""
    idle, pause, spoilt = 0, transfer.backoff, False
    for _ in range(transfer.total_attempts):
        if spoilt and not sha256:
            # Without a hash, parts of different answers may not belong together.
            part.remove()
        before = part.size
        try:
            _attempt(session, asset, url, part, bool(sha256), transfer)
            found = sha256_file(part.path)
            fault = _fault(asset, part, found, sha256)
            if fault is None:
                return found
            part.remove()
            if not before or spoilt:
                raise HopelessError(fault)
            # The beginning came from an earlier try and may be the wrong part.
            spoilt = True
            raise BrokenError(f"{fault}; starting over")
        except BrokenError as error:
            better = part.size > before and not error.slow
            idle = 0 if better else idle + 1
            pause = transfer.backoff if better else pause
            if idle >= transfer.attempts:
                raise HopelessError(f"{error} ({idle} attempts)") from None
            wait = max(pause * random.uniform(0.75, 1.25), min(error.wait, 2 * transfer.max_backoff))
            if not transfer.quiet:
                say(f"[fetch {asset.id}] {error}; trying again in {wait:.1f}s")
            transfer.pause(wait)
            pause = min(2 * pause, transfer.max_backoff)
    raise HopelessError(f"no complete file in {transfer.total_attempts} attempts")


def _attempt(session: Session, asset: Asset, url: str, part: PartialDownload, known: bool, transfer: Transfer) -> None:
    """Sends one request that starts or continues the file; returns when all announced bytes have arrived."""
    import requests
    import urllib3

    if part.complete(url, known):
        return
    done, headers = part.resume(url, known)
    try:
        with open_url(session, url, headers, transfer.timeout) as response:
            start, total = _accepted(response, done, part, asset, known, transfer)
            with open(part.path, "r+b" if part.path.exists() else "wb") as stream:
                stream.seek(start)
                # Truncate before the note, which must never describe bytes of another version.
                stream.truncate()
                part.note(url, response.headers, total, start)
                _receive(response, stream, start, total, asset, transfer)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise BrokenError(f"connection failed ({type(error).__name__})") from None
    except OSError as error:
        raise UserError(part.path, error, "free some space or set SIDA_CACHE to another folder") from None
    if total is not None and part.size < total:
        raise BrokenError(f"connection broke after {part.size:,} of {total:,} bytes")


def _accepted(
    response: Response, done: int, part: PartialDownload, asset: Asset, known: bool, transfer: Transfer
) -> tuple[int, int | None]:
    """Checks status, form and announced length; returns ``(first byte of the body, total length or None)``."""
    status, headers = response.status_code, response.headers
    if status in _AGAIN:
        raise BrokenError(f"the server answered {status}", float(_number(headers.get("Retry-After")) or 0))
    if status == 416:
        part.path.unlink(missing_ok=True)
        raise BrokenError("the part kept from an earlier try does not belong to the file; starting over")
    if status not in (200, 206):
        private = asset.hub is not None and status in (401, 403)
        remedy = "; for a private or gated repository set HF_TOKEN or run `hf auth login`" if private else ""
        raise HopelessError(f"the server answered {status}{remedy}")
    if headers.get("Content-Type", "").lower().startswith("text/html") and not asset.target.endswith(".html"):
        raise HopelessError("the server sent a web page instead of the file")
    if packed := packing(headers, asset.target):
        raise HopelessError(f"the server sends it compressed (Content-Encoding: {packed}), which was not asked for")
    start, total = 0, _number(headers.get("Content-Length"))
    if status == 206:
        start, total = _continued(headers, done, part)
    chunked = "chunked" in headers.get("Transfer-Encoding", "")
    if total is None and asset.size is None and not known and not chunked:
        raise HopelessError("the length of the file is unknown, so a cut-off copy would go unnoticed")
    if asset.size is not None and total is not None and total != asset.size:
        raise HopelessError(f"the file has {total:,} bytes there, {asset.size:,} are registered")
    if asset.size is None and total is not None and total > transfer.most:
        raise HopelessError(f"the file has {total:,} bytes there, {_at_most(transfer)}")
    if total is not None:
        _leave_room(part.path.parent, total - start)
    return start, total


def _continued(headers: Mapping[str, str], done: int, part: PartialDownload) -> tuple[int, int]:
    """First byte and total length of an answer that continues the part; raises if it does not."""
    place = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", headers.get("Content-Range", ""))
    if not place or int(place[1]) != done:
        part.path.unlink(missing_ok=True)
        raise BrokenError("the server sent another part than asked for; starting over")
    total, origin, version = int(place[3]), part.origin, validator(headers)
    if origin.get("total") not in (None, total) or (version and origin.get("validator", "") not in ("", version)):
        part.path.unlink(missing_ok=True)
        raise BrokenError("the file has changed on the server; starting over")
    return done, total


def _receive(
    response: Response, stream: BinaryIO, start: int, total: int | None, asset: Asset, transfer: Transfer
) -> None:
    limit = total if total is not None else asset.size
    progress = Progress(f"fetch {asset.id}", (limit or 0) / 1e6, "MB", done=start / 1e6, interval=5)
    position, look = start, start
    # read1 returns the bytes that have arrived; a larger read would lose them when the connection breaks.
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        transfer.pause(0)
        position += len(chunk)
        if position > (transfer.most if limit is None else limit):
            stream.truncate(0)
            should = f"the {limit:,} bytes it should" if limit is not None else f"it may: {_at_most(transfer)}"
            raise HopelessError(f"the server sends more than {should}")
        if limit is None and position >= look:
            look = position + _LOOK
            _leave_room(Path(stream.name).parent)
        stream.write(chunk)
        if not transfer.quiet:
            progress.update(position / 1e6)


def _at_most(transfer: Transfer) -> str:
    return f"the limit of a file without registered size is {transfer.most:,} bytes (SIDA_MAX_DOWNLOAD, in gigabytes)"


def _leave_room(folder: Path, missing: int | None = None) -> None:
    """Stops a body before it fills the disk; one of unknown length (None) must leave a gigabyte."""
    free = shutil.disk_usage(folder).free
    if free < (_ROOM if missing is None else missing):
        length = "the file's length is unknown" if missing is None else f"{missing:,} are missing"
        raise UserError(folder, f"{free:,} bytes are free, and {length}", "set SIDA_CACHE to another disk")


def _fault(asset: Asset, part: PartialDownload, found: str, sha256: str) -> str | None:
    """Fault of the complete part, or None."""
    size = part.size
    if size == 0:
        return "the file is empty there"
    if found == sha256:
        return None
    if other := wrong_content(part.path, asset.target):
        return f"the server sent {other} instead of the file"
    if asset.size is not None and size != asset.size:
        return f"{size:,} bytes arrived, {asset.size:,} are registered"
    if sha256:
        recorded = "" if asset.sha256 else f"; if the recorded one was wrong: sida assets forget {asset.id}"
        return f"wrong content (sha256 {found[:12]}…, {sha256[:12]}… expected{recorded})"
    return "the joined parts do not have the digest in the server's ETag" if part.glued() else None


def _number(text: str | None) -> int | None:
    # str.isdigit accepts ² and ³, and int() refuses thousands of digits.
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None
