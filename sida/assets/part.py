"""The beginning of a file that is being downloaded, and what must be known to resume it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json


class PartialDownload:
    """``<target>.part`` in the cache, beside a note of where its bytes came from.

    Args:
        path: The unfinished file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._note = path, path.with_name(path.name + ".json")

    @property
    def target(self) -> str:
        """Name of the finished file."""
        return self.path.name.removesuffix(".part")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> dict[str, Any]:
        """Where the bytes came from: ``url``, ``validator`` (the server's name of that version), ``total`` length, and
        whether they came in several answers (``resumed``).
        """
        with contextlib.suppress(OSError, ValueError, RecursionError):
            value = json.loads(self._note.read_text(encoding="utf-8"))
            if isinstance(value, dict) and isinstance(value.get("validator", ""), str):
                return value
        return {}

    def complete(self, url: str, known: bool) -> bool:
        """Whether all bytes of the file at an address are there."""
        origin = self.origin
        return bool(self.size) and self.size == origin.get("total") and (known or origin.get("url") == url)

    def resume(self, url: str, known: bool) -> tuple[int, dict[str, str]]:
        """How many bytes can be kept, and the headers that ask for the rest of the very same file.

        Where the hash is unknown, nobody would notice a file glued from two versions, which a server may call by one
        name: then a download is resumed only where the name is a digest, which the whole file is compared with.
        """
        done, origin = self.size, self.origin
        validator = origin.get("validator", "") if origin.get("url") == url else ""
        if not done or not (known or _digest(validator)):
            return 0, {}
        return done, {"Range": f"bytes={done}-"} | ({"If-Range": validator} if validator else {})

    def note(self, url: str, headers: Mapping[str, str], total: int | None, start: int) -> None:
        """Writes down where the bytes come from that are about to be written from byte ``start`` on."""
        named = validator(headers) or (self.origin.get("validator", "") if start else "")
        write_json(self._note, {"url": url, "validator": named, "total": total, "resumed": start > 0})

    def glued(self) -> bool:
        """Whether a resumed file is not the one that its server's digest names."""
        origin = self.origin
        if not origin.get("resumed"):
            return False
        wanted = _digest(origin.get("validator", ""))
        with open(self.path, "rb") as stream:
            kind = "md5" if len(wanted) == 32 else "sha256"
            return hashlib.file_digest(stream, kind).hexdigest() != wanted

    def remove(self) -> None:
        """Forgets the unfinished download."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Flushes the checked part to disk and gives it its name."""
        with open(self.path, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, target)
        self._note.unlink(missing_ok=True)


def _digest(validator: str) -> str:
    """The MD5 or SHA-256 that a validator may be, as stores of objects give it; empty where it is none."""
    found = re.fullmatch(r'"([0-9a-f]{32}|[0-9a-f]{64})"', validator)
    return found[1] if found else ""


def validator(headers: Mapping[str, str]) -> str:
    """What an answer calls this version of its file, fit for ``If-Range``; empty where it says nothing."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
