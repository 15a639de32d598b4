"""Download of one file over HTTP(S): resumes, retries, tries mirrors, and checks the result."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sida.assets.content import is_page, packing, wrong_content
from sida.assets.part import PartialDownload, validator
from sida.assets.transport import BrokenError, HopelessError, new_session, open_url
from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.progress import Progress, say

if TYPE_CHECKING:
    from requests import Response, Session

    from sida.assets.registry import Asset

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
            raise UserError(f"SIDA_MAX_DOWNLOAD: '{text}' must be a whole number of gigabytes")
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
                reasons.append(f"{_host(url)}: {error}")
    raise UserError(
        f"asset '{asset.id}' could not be downloaded ({'; '.join(reasons)}); run the command again to continue, or put "
        f"'{part.target}' into {part.path.parent} by hand"
    )


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
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        network = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
        if not isinstance(error, network):
            raise UserError(f"{part.path}: {error}; free some space or set SIDA_CACHE to another folder") from None
        raise BrokenError(f"connection failed ({type(error).__name__})") from None
    size = part.size
    if total is not None and size < total:
        raise BrokenError(f"connection broke after {size:,} of {total:,} bytes")


def _accepted(
    response: Response, done: int, part: PartialDownload, asset: Asset, known: bool, transfer: Transfer
) -> tuple[int, int | None]:
    """Checks status, form and announced length; returns ``(first byte of the body, total length or None)``."""
    status, headers = response.status_code, response.headers
    if status in _AGAIN:
        raise BrokenError(f"the server answered {status}", _retry_after(response))
    if status == 416:
        part.path.unlink(missing_ok=True)
        raise BrokenError("the part kept from an earlier try does not belong to the file; starting over")
    if status not in (200, 206):
        private = asset.hub is not None and status in (401, 403)
        remedy = "; for a private or gated repository set HF_TOKEN or run `hf auth login`" if private else ""
        raise HopelessError(f"the server answered {status}{remedy}")
    if is_page(headers.get("Content-Type", ""), asset.target):
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
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - start > free:
        raise UserError(
            f"{part.path.parent}: {total - start:,} bytes are missing, {free:,} free; set SIDA_CACHE to another disk"
        )
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
            _leave_room(stream)
        stream.write(chunk)
        if not transfer.quiet:
            progress.update(position / 1e6)


def _at_most(transfer: Transfer) -> str:
    return f"the limit of a file without registered size is {transfer.most:,} bytes (SIDA_MAX_DOWNLOAD, in gigabytes)"


def _leave_room(stream: BinaryIO) -> None:
    """Stops a body of unknown length before it fills the disk."""
    folder = Path(stream.name).parent
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise UserError(
            f"{folder}: {free:,} bytes are free, and the file's length is unknown; set SIDA_CACHE to another folder"
        )


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


def _retry_after(response: Response) -> float:
    return float(_number(response.headers.get("Retry-After")) or 0)


def _host(url: str) -> str:
    return url.split("/")[2]
