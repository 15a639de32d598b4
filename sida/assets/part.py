"""Unfinished downloads, with the facts needed to resume them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json

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
    def target(self) -> str:
        """Name of the finished file."""
        return self.path.name.removesuffix(".part")

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
