"""Checks that a server sent the requested file, not a web page, a message, a pointer or a compressed copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

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


def is_page(content_type: str, target: str) -> bool:
    """Whether the answer for another kind of file declares itself a web page."""
    return content_type.lower().startswith("text/html") and not target.endswith(".html")


def packing(headers: Mapping[str, str], target: str) -> str | None:
    """Compression that the server applied to the file for the transfer, or None.

    For a compressed file, servers may declare the file's own compression, which does not count.
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    own = _PACKED.get(PurePath(target).suffix.lower(), ())
    return encoding if encoding not in ("", "identity", *own) else None
