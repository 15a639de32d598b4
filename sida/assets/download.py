"""One file over HTTP(S): continues where it stopped, tries again, tries mirrors, trusts nothing unchecked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sida.errors import UserError
from sida.io import sha256_file, write_json
from sida.progress import Progress

if TYPE_CHECKING:
    from requests import Response, Session

    from sida.assets.registry import Asset

_CHUNK = 1 << 18
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How patient a download is.

    Attributes:
        attempts: Attempts in a row without a single new byte before a URL is given up.
        total_attempts: Attempts per URL in all.
        backoff: Seconds before the second attempt; doubled each time, at most ``max_backoff``.
        max_backoff: Longest pause in seconds.
        timeout: Seconds without any byte after which a connection counts as broken.
        quiet: No progress lines.
    """

    attempts: int = 5
    total_attempts: int = 100
    backoff: float = 1.0
    max_backoff: float = 30.0
    timeout: float = 30.0
    quiet: bool = False


class BrokenError(Exception):
    """This attempt failed; another one may succeed. ``wait`` is the pause the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class HopelessError(Exception):
    """This URL will not give the file; a mirror may."""


def download(asset: Asset, part: Path, sha256: str, transfer: Transfer) -> tuple[str, str]:
    """Fetches an asset into ``part``, which may hold the beginning of it from an earlier try.

    Args:
        asset: What to fetch.
        part: Temporary file beside the target.
        sha256: Expected hash; empty when unknown.
        transfer: Patience.

    Returns:
        ``(sha256, url)`` of the complete, checked file.

    Raises:
        UserError: No URL gave the file; the reasons are named and what arrived is kept for the next try.
    """
    import requests

    reasons = []
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"
        for url in asset.urls:
            try:
                return _from_url(session, asset, url, part, sha256, transfer), url
            except HopelessError as error:
                reasons.append(f"{_host(url)}: {error}")
    target = part.name.removesuffix(".part")
    raise UserError(
        f"asset '{asset.id}' could not be downloaded ({'; '.join(reasons)}); run the command again to continue, or put "
        f"'{target}' into {part.parent} by hand"
    )


def _from_url(session: Session, asset: Asset, url: str, part: Path, sha256: str, transfer: Transfer) -> str:
    """All attempts at one URL; returns the hash of the complete file."""
    idle, pause, spoilt = 0, transfer.backoff, False
    for _ in range(transfer.total_attempts):
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(session, asset, url, part, bool(sha256), transfer)
            found = sha256_file(part)
            fault = _fault(asset, part.stat().st_size, found, sha256)
            if fault is None:
                return found
            remove_part(part)
            if not before or spoilt:
                raise HopelessError(fault)
            # The beginning came from an earlier try; it may have been that which was wrong.
            spoilt = True
            raise BrokenError(f"{fault}; starting over")
        except BrokenError as error:
            after = part.stat().st_size if part.exists() else 0
            idle = 0 if after > before else idle + 1
            pause = transfer.backoff if after > before else pause
            if idle >= transfer.attempts:
                raise HopelessError(f"{error} ({idle} attempts)") from None
            wait = max(pause * random.uniform(0.75, 1.25), min(error.wait, 2 * transfer.max_backoff))
            if not transfer.quiet:
                print(f"[fetch {asset.id}] {error}; trying again in {wait:.1f}s", flush=True)
            time.sleep(wait)
            pause = min(2 * pause, transfer.max_backoff)
    raise HopelessError(f"no complete file in {transfer.total_attempts} attempts")


def _attempt(session: Session, asset: Asset, url: str, part: Path, known: bool, transfer: Transfer) -> None:
    """One request that starts or continues the file; returns only when all announced bytes are there."""
    import requests
    import urllib3

    done, headers = _resume_headers(part, url, known)
    if done and done == _origin(part).get("total"):
        return
    try:
        with session.get(url, headers=headers, stream=True, timeout=transfer.timeout) as response:
            start, total = _accepted(response, done, part, asset, known)
            _keep_origin(part, url, response, total)
            with open(part, "r+b" if part.exists() else "wb") as stream:
                stream.seek(start)
                stream.truncate()
                _receive(response, stream, start, total, asset, transfer)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        network = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
        if not isinstance(error, network):
            raise UserError(f"{part}: {error}; free some space or set SIDA_CACHE to another folder") from None
        raise BrokenError(f"connection failed ({type(error).__name__})") from None
    size = part.stat().st_size
    if total is not None and size < total:
        raise BrokenError(f"connection broke after {size:,} of {total:,} bytes")


def _resume_headers(part: Path, url: str, known: bool) -> tuple[int, dict[str, str]]:
    """How much of the file is there, and the headers that ask for the rest of the very same file."""
    done = part.stat().st_size if part.exists() else 0
    origin = _origin(part)
    if not done or (origin.get("url") != url and not known):
        return 0, {}
    headers = {"Range": f"bytes={done}-"}
    if origin.get("url") == url and origin.get("validator"):
        headers["If-Range"] = origin["validator"]
    return done, headers


def _accepted(response: Response, done: int, part: Path, asset: Asset, known: bool) -> tuple[int, int | None]:
    """Checks status and announced length; returns ``(first byte of the body, total length or None)``."""
    status = response.status_code
    if status in _AGAIN:
        raise BrokenError(f"the server answered {status}", _retry_after(response))
    if status == 416:
        part.unlink(missing_ok=True)
        raise BrokenError("the part kept from an earlier try does not belong to the file; starting over")
    if status not in (200, 206):
        raise HopelessError(f"the server answered {status}")
    if response.headers.get("Content-Type", "").startswith("text/html") and not asset.target.endswith(".html"):
        raise HopelessError("the server sent a web page instead of the file")
    start, total = 0, _number(response.headers.get("Content-Length"))
    if status == 206:
        place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        if not place or int(place[1]) != done:
            part.unlink(missing_ok=True)
            raise BrokenError("the server sent another part than asked for; starting over")
        start, total = done, int(place[3])
        if _origin(part).get("total") not in (None, total):
            part.unlink(missing_ok=True)
            raise BrokenError("the file has changed on the server; starting over")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "")
    if total is None and asset.size is None and not known and not chunked:
        raise HopelessError("nobody says how long the file is, so a cut-off copy would go unnoticed")
    if asset.size is not None and total is not None and total != asset.size:
        raise HopelessError(f"the file has {total:,} bytes there, {asset.size:,} are registered")
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise UserError(
            f"{part.parent}: {total - start:,} bytes are needed, {free:,} are free; set SIDA_CACHE elsewhere"
        )
    return start, total


def _receive(
    response: Response, stream: BinaryIO, start: int, total: int | None, asset: Asset, transfer: Transfer
) -> None:
    limit = total if total is not None else asset.size
    progress = Progress(f"fetch {asset.id}", (limit or 0) / 1e6, "MB", done=start / 1e6, interval=5)
    position = start
    # read1 hands over what has arrived; larger reads would lose their beginning when a connection breaks.
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        position += len(chunk)
        if limit is not None and position > limit:
            raise HopelessError(f"the server sends more than the {limit:,} bytes it should")
        stream.write(chunk)
        if not transfer.quiet:
            progress.update(position / 1e6)


def _fault(asset: Asset, size: int, found: str, sha256: str) -> str | None:
    """What is wrong with the complete part, if anything."""
    if size == 0:
        return "the file is empty there"
    if asset.size is not None and size != asset.size:
        return f"{size:,} bytes arrived, {asset.size:,} are registered"
    if sha256 and found != sha256:
        return f"wrong content (sha256 {found[:12]}…, {sha256[:12]}… expected)"
    return None


def _keep_origin(part: Path, url: str, response: Response, total: int | None) -> None:
    validator = response.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):
        validator = response.headers.get("Last-Modified", "")
    write_json(_origin_path(part), {"url": url, "validator": validator, "total": total})


def _origin(part: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(_origin_path(part).read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
    return {}


def _origin_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def remove_part(part: Path) -> None:
    """Forgets an unfinished download."""
    for path in (part, _origin_path(part)):
        path.unlink(missing_ok=True)


def finish(part: Path, target: Path) -> None:
    """Flushes the checked part to disk and gives it its name."""
    with open(part, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(part, target)
    _origin_path(part).unlink(missing_ok=True)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _retry_after(response: Response) -> float:
    return float(_number(response.headers.get("Retry-After")) or 0)


def _host(url: str) -> str:
    return url.split("/")[2]
