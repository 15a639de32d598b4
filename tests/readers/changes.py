"""Damaged and hostile copies of genuine files, drawn by hypothesis: general edits, and changes that know a format."""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import strategies

#: ``change(data, random) -> data``; raises ValueError for data that it cannot take.
Change = Callable[[bytes, Random], bytes]
#: Most bytes that a change of an archive unpacks, and that a text multiplies to: no attack becomes a larger one.
MOST_BYTES = 1 << 25
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_WRITTEN = (b"0", b"-1", b"1e999", b"NaN", b"9" * 20, b"1e-320", *(str(number).encode() for number in _NUMBERS))
_TEXTS = (
    b"", b"\0", b"\n", b"\x1b[2J\x1b]0;x\x07", b"../../escape", b"/etc/passwd", b"\xff\xfe", "\u202eabc".encode(),
    b"%s", b"-1", b"1e999", b"nan", b"NaN", b"Infinity", b"null", b"true", b"{}", b"[]", b'"', b"9" * 30, b"A" * 3000,
    b"\x7f", b"\x80", b"\xff", b"\r", b"'", b"\\",
)  # fmt: skip
#: Values that no reader expects where a number, a text or a list stands.
_HOSTILE = (
    None, True, False, -1, 0, 1, 10**9, 2**31, 2**63, 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "x" * 500, "\x1b[31m", "../../x", "\u202e", "a\nb", "nan", [], {}, [[]], [None], {"": None}, [1] * 2000,
    [10**12] * 3,
)  # fmt: skip


@strategies.composite
def damaged(draw, files: Mapping[str, bytes], own: Sequence[Change], share: float) -> tuple[str, bytes]:
    """Name and content of a file after one to three changes, of which about a share know the format."""
    name = draw(strategies.sampled_from(sorted(files)))
    rng = draw(strategies.randoms(use_true_random=False))
    content = files[name]
    for _ in range(rng.choice((1, 1, 2, 3))):
        changed = edited(content, rng, tuple(files.values()))
        if own and rng.random() < share:
            with contextlib.suppress(ValueError, RecursionError):
                changed = rng.choice(own)(content, rng)
        content = changed if len(changed) <= MOST_BYTES else content
    return name, content


def edited(data: bytes, rng: Random, files: Sequence[bytes] = ()) -> bytes:
    """Some bits flip, a written number is another one, or a slice is replaced or gone."""
    kind, at = rng.randrange(8), _place(data, rng)
    if kind < 2 and data:
        result = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            result[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)
        return bytes(result)
    if kind == 2 and (found := list(re.finditer(rb"-?\d+(\.\d+)?", data[:200_000]))):
        one = rng.choice(found)
        return data[: one.start()] + rng.choice(_WRITTEN) + data[one.end() :]
    other = rng.choice((data, *files))
    begin = _place(other, rng)
    piece = {
        3: b"",
        4: rng.choice(_TEXTS),
        5: (rng.choice(_NUMBERS) % (1 << 32)).to_bytes(rng.choice((4, 8)), rng.choice(("little", "big"))),
        6: other[begin : begin + rng.choice((1, 4, 300))] * rng.choice((1, 2, 50)),
        7: other[begin:],
    }.get(kind, bytes(rng.randrange(256) for _ in range(rng.randint(1, 32))))
    gone = len(data) if kind == 7 else rng.choice((0, len(piece), 1, 2, 8, rng.randint(1, 200), len(data)))
    return data[:at] + piece + data[at + gone :]


def _place(data: bytes, rng: Random) -> int:
    """A place in the data; headers at both ends are hit more often than the rest."""
    near = min(len(data), 512)
    return rng.choice((rng.randrange(len(data) + 1), rng.randrange(near + 1), len(data) - rng.randrange(near + 1)))


def lines(data: bytes, rng: Random) -> bytes:
    """A line of a text goes, comes twice, moves, or gets another's cell; for tables, YAML and JSON lines."""
    rows = data.split(b"\n")
    at, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    kind = rng.randrange(4)
    if kind == 0:
        del rows[at]
    elif kind == 1:
        rows[at:at] = [rows[other]] * rng.choice((1, 2, 100))
    elif kind == 2:
        rows[at], rows[other] = rows[other], rows[at]
    else:
        cells = re.split(rb"([\t,:])", rows[at])
        cells[rng.randrange(len(cells))] = rng.choice(_TEXTS)
        rows[at] = b"".join(cells)
    return b"\n".join(rows)


def encoded(data: bytes, rng: Random) -> bytes:
    """Another encoding of a text."""
    try:
        return data.decode().encode(rng.choice(("utf-16", "utf-16-be", "utf-32", "cp1252", "utf-8-sig", "utf-7")))
    except UnicodeError:
        raise ValueError("no text") from None


def tokens(*known: bytes) -> Change:
    """A change that puts one token in the place of another: keywords, opcodes, names that a format knows."""

    def change(data: bytes, rng: Random) -> bytes:
        places = [found.span() for token in known for found in re.finditer(re.escape(token), data)]
        if not places:
            raise ValueError("none of the tokens")
        begin, end = rng.choice(sorted(places))
        return data[:begin] + rng.choice(known) + data[end:]

    return change


def bomb(*makers: Callable[[Random], bytes]) -> Change:
    """A change that puts a small file in the data's place, which asks for much work or memory."""
    return lambda data, rng: rng.choice(makers)(rng)


def json_value(value: Any, rng: Random) -> Any:
    """A JSON value with one part replaced, removed, renamed, or nested."""
    places: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        item = pending.pop()
        keys = sorted(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        places += [(item, key) for key in keys]
        pending += [item[key] for key in keys]
    if not places:
        return rng.choice(_HOSTILE)
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("\x1b[2J", "", "../x", "x" * 2000, f"{key}x"))] = holder.pop(key)
    elif kind == 2:
        other, at = rng.choice(places)
        holder[key] = other[at] if at in other or (isinstance(other, list) and at < len(other)) else None
    elif kind == 3:
        for _ in range(rng.choice((1, 30, 200))):
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    else:
        holder[key] = rng.choice(_HOSTILE)
    return value


def json_text(data: bytes, rng: Random) -> bytes:
    """A change for files that are JSON."""
    return json.dumps(json_value(parsed(data), rng)).encode()


def parsed(data: bytes) -> Any:
    """JSON that is no bomb: changing one of a million places takes longer than reading them.

    Raises:
        ValueError: It is long, or no JSON.
    """
    if len(data) > 200_000:
        raise ValueError("too long")
    return json.loads(data)


def zip_members(inner: Change) -> Change:
    """A change for zip archives: ``inner`` changes one member, or one goes, comes twice, is renamed or squeezed."""

    def change(data: bytes, rng: Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
                    raise ValueError("an attack already")
                members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, KeyError, zlib.error) as error:
            raise ValueError("no zip archive") from error
        if not members:
            raise ValueError("no members")
        at = rng.randrange(len(members))
        name, content = members[at]
        kind, squeeze = rng.randrange(8), zipfile.ZIP_STORED
        if kind == 0:
            del members[at]
        elif kind == 1:
            members.append(members[at])
        elif kind == 2:
            members[at] = (rng.choice(("../" + name, "/" + name, name + "\x1b[2J", "a" * 3000, "")), content)
        elif kind == 3:
            squeeze = zipfile.ZIP_DEFLATED
        else:
            members[at] = (name, inner(content, rng))
        stream = io.BytesIO()
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(stream, "w", squeeze) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name or "x"), content, squeeze)
        return stream.getvalue()

    return change


#: Text of nothing but brackets and commas, from a few to more than readers take.
_MANY = (10, 10, 1000, 1000, 1000, 100_000)
JSON_BOMBS = bomb(lambda rng: b'{"a": [' + b"[]," * rng.choice((*_MANY, 1_100_000)) + b"0]}")
YAML_BOMBS = bomb(lambda rng: b"a: [" + b"x," * rng.choice((*_MANY, 300_000)) + b"]")
CSV_BOMBS = bomb(lambda rng: b"run,metric\n" + rng.choice((b",\n", b",,,,")) * rng.choice((*_MANY, 4 << 20)))
