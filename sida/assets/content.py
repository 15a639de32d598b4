"""What servers send in the place of a file: pages for people, messages, pointers, packed copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

_HEAD = 512
_TEXTS = {".json", ".txt", ".csv", ".tsv", ".yaml", ".md", ".html", ".xml"}
_PACKED = {".gz": ("gzip", "x-gzip"), ".tgz": ("gzip", "x-gzip"), ".bz2": ("bzip2", "x-bzip2"), ".zst": ("zstd",)}


def stand_in(path: Path, target: str) -> str | None:
    """What a file is in the place of the one that was asked for; None where nothing speaks against it.

    Args:
        path: The file that arrived.
        target: Its name in the cache: a page is the file where it is called one.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    text, suffix = head.removeprefix(b"\xef\xbb\xbf").lstrip(), PurePath(target).suffix.lower()
    # Binary formats begin with nothing of this that goes on as text.
    if suffix in _TEXTS - {".json"} or b"\0" in head:
        return None
    if text.startswith(b"<"):
        return "a web page"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS"
    return "a message in JSON" if text.startswith(b"{") and suffix != ".json" and head.isascii() else None


def is_page(content_type: str, target: str) -> bool:
    """Whether an answer calls itself a web page where another file was asked for."""
    return content_type.lower().startswith("text/html") and not target.endswith(".html")


def packing(headers: Mapping[str, str], target: str) -> str | None:
    """How an answer packs the file on its way; None where the body is the file itself.

    Of a file that is a compressed one, servers name the file's own compression.
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    own = _PACKED.get(PurePath(target).suffix.lower(), ())
    return encoding if encoding not in ("", "identity", *own) else None
