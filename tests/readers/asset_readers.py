"""Downloads: what a server, or a cache that rots, may hand over in the place of a registered file."""

from __future__ import annotations

import hashlib
import io
import json
import socket
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from unittest import mock

from sida.assets import Asset, Transfer, fetch
from sida.assets.cache import LOCK_FILE
from tests.readers.changes import JSON_BOMBS, json_text, lines, tokens
from tests.readers.frame import FaultError, Reader

URL, TARGET = "http://127.0.0.1:9/f", "some/net.bin"
CONTENT = b"".join(b"%d bytes of a network\n" % number for number in range(40))
SHA = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
ETAG = f'"{hashlib.md5(CONTENT).hexdigest()}"'
HASTY = Transfer(attempts=1, total_attempts=3, backoff=0, max_backoff=0, timeout=1, quiet=True)
PLACE = f"Content-Range: bytes {HALF}-{len(CONTENT) - 1}/{len(CONTENT)}"
NOTE = {"url": URL, "validator": ETAG, "total": len(CONTENT), "resumed": False}
RECORD = {"sha256": SHA, "size": len(CONTENT), "url": URL, "date": "2035-01-01T00:00:00Z"}


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """A server's answer."""
    head = [f"HTTP/1.1 {status}", f"ETag: {ETAG}", f"Content-Length: {len(body)}", *headers, "Connection: close"]
    return "\r\n".join([*head, "", ""]).encode() + body


def write_answers(folder: Path) -> None:
    """Answers with the whole file and with its rest, chunks, a pause; and what lies in a cache."""
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (CONTENT[:HALF], CONTENT[HALF:], b""))
    chunked = f"HTTP/1.1 200 OK\r\nETag: {ETAG}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + pieces
    (folder / "whole.http").write_bytes(answer("200 OK", CONTENT, "Content-Type: application/octet-stream"))
    (folder / "rest.http").write_bytes(answer("206 Partial Content", CONTENT[HALF:], PLACE))
    (folder / "chunks.http").write_bytes(chunked)
    (folder / "part.json").write_text(json.dumps(NOTE))
    (folder / LOCK_FILE).write_text(json.dumps({TARGET: RECORD}))
    (folder / "rot.bin").write_bytes(CONTENT)


def read_asset(path: Path, own: Path) -> None:
    """`fetch` with the hash known or not: the file is the registered one, or that of one answer; else one line."""
    content = path.read_bytes()
    known = path.name == "rot.bin" or bool(hashlib.sha256(content).digest()[0] % 2)
    cache, part = own / "cache", own / "cache" / f"{TARGET}.part"
    part.parent.mkdir(parents=True)
    asset = Asset(id="net", kind="network", url=URL, target=TARGET, sha256=SHA if known else "")
    reply = content if path.suffix == ".http" else answer("206 Partial Content", CONTENT[HALF:], PLACE)
    if path.name in ("rest.http", "part.json"):
        part.write_bytes(CONTENT[:HALF])
        note = content if path.name == "part.json" else json.dumps(NOTE).encode()
        part.with_name(f"{part.name}.json").write_bytes(note)
    elif path.suffix != ".http":
        record = content if path.name == LOCK_FILE else json.dumps({TARGET: RECORD}).encode()
        (cache / LOCK_FILE).write_bytes(record)
        (cache / TARGET).write_bytes(content if path.name == "rot.bin" else CONTENT)
    connect = "urllib3.connection.HTTPConnection._new_conn"
    with mock.patch(connect, side_effect=lambda *_: served(reply)), redirect_stderr(io.StringIO()):
        found = fetch("net", registry={"net": asset}, cache=cache, transfer=HASTY).read_bytes()
    if known and found != CONTENT:
        raise FaultError("another file than the registered one was taken")
    if path.name == "rest.http" and found != CONTENT and found[:HALF] == CONTENT[:HALF]:
        raise FaultError("a mixture of two versions was taken")


def served(reply: bytes) -> socket.socket:
    """A connection at whose other end everything has been said."""
    here, there = socket.socketpair()
    here.settimeout(1)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    there.settimeout(0)
    try:
        there.send(reply)
        there.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        raise ConnectionResetError from None
    # It stays open until this end is closed, or what is asked for would break the connection.
    _OPEN.append(there)
    while len(_OPEN) > 20:
        _OPEN.pop(0).close()
    return here


_OPEN: list[socket.socket] = []
HEADERS = tokens(
    b"Content-Length", b"Content-Range", b"Transfer-Encoding", b"Content-Encoding", b"ETag", b"Last-Modified",
    b"Retry-After", b"Location", b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 416 x",
    b"HTTP/1.1 503 x", b"HTTP/1.1 302 x", b"HTTP/1.0 200 OK", b"chunked", b"gzip", b"text/html", b"\r\n",
    b": ", b"bytes ",
)  # fmt: skip


def values(data: bytes, rng: Random) -> bytes:
    """A header's value becomes one that is no number, or none that fits."""
    head, gap, body = data.partition(b"\r\n\r\n")
    rows = head.split(b"\r\n")
    if len(rows) < 2 or not gap:
        raise ValueError("no answer")
    at = rng.randrange(1, len(rows))
    known = ("\u00b3", "9" * 5000, "-1", "", "1e3", "bytes 0-0/0", f"bytes 9-{'9' * 6000}/9", "0x10", "12, 12", "1_0")
    rows[at] = rows[at].partition(b":")[0] + b": " + rng.choice(known).encode("latin-1")
    return b"\r\n".join(rows) + gap + body


READERS = (
    Reader(
        "download, and its cache", write_answers, read_asset, (values, values, HEADERS, lines, json_text, JSON_BOMBS),
        0.7, cases=50,
    ),
)  # fmt: skip
