"""Parts of pickles, to be put together to files that no program would write, and what such a file must come to."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

from sida.files.pickles import read_pickle
from tests.refused import refusal


def content_refused(path: Path, content: bytes, reason: str, read: Callable[[Path], object] = read_pickle) -> None:
    """Checks that a file with this content is refused for this reason, and that nothing lies beside it then."""
    path.write_bytes(content)
    before = sorted(path.parent.iterdir())
    said = refusal(read, path)
    assert re.search(reason, said), said
    assert str(path) in said
    assert sorted(path.parent.iterdir()) == before


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def long(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def whole(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def called(module: str, name: str, *args: bytes) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


def kept(slot: int) -> bytes:
    return b"r" + struct.pack("<I", slot)


def again(slot: int) -> bytes:
    return b"j" + struct.pack("<I", slot)


def mapping(*pairs: bytes) -> bytes:
    return b"}(" + b"".join(pairs) + b"u"


def shared(depth: int, wide: int = 2) -> bytes:
    """A tuple of tuples of ... that is small, and endless when it is written out."""
    parts = [b")", kept(1)]
    for level in range(1, depth):
        parts += [b"0(", again(level) * wide, b"t", kept(level + 1)]
    return b"".join(parts)


def network(*state: bytes) -> bytes:
    """A network that records its class, as an entry of a pickle."""
    meta = [text("type") + text("class"), text("version") + b"K\x06", text("module_src") + text("")]
    meta += [text("class_name") + text("EDMPrecond"), text("state") + mapping(*state)]
    made = called("torch_utils.persistence", "_reconstruct_persistent_obj", mapping(*meta))
    return whole(mapping(text("ema") + made))
