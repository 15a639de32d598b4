"""Small files that ask for endless work or memory: made here, tried by tests of readers and varied by the fuzzers."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import torch
from PIL import Image

from tests.data.test_archive import zip_of


def gif(frames: int = 1, side: int = 64, comment: int = 0) -> bytes:
    """A GIF of many frames, and with a comment of blocks of one byte."""
    stream = io.BytesIO()
    Image.new("P", (side, side), 1).save(stream, "GIF")
    data = stream.getvalue()
    frame = data.rindex(b",\0\0\0\0")
    return data[:frame] + b"!\xfe" + b"\1x" * comment + b"\0" + data[frame:-1] * frames + b";"


def tiff(directories: int, strips: int = 1, order: str = "<") -> bytes:
    """A TIFF of many directories of one pixel each, or of many strips that are not there."""
    entries = [(256, 4, 1, 1), (257, 4, 1, strips), (258, 4, 1, 8), (262, 4, 1, 1), (273, 4, strips, 8), (279, 4, 1, 1)]
    body, size = b"", 2 + 12 * len(entries) + 4
    for index in range(directories):
        tags = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
        after = 10 + (index + 1) * size if index + 1 < directories else 0
        body += struct.pack(f"{order}H", len(entries)) + tags + struct.pack(f"{order}I", after)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 10) + b"\x80\0" + body


def jpeg(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", progressive=True, quality=30)
    data = stream.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (1 + scans) + data[-2:]


def ppm(values: int = 0, comment: int = 0, side: int = 4096) -> bytes:
    """A plain PPM of many values, or one with a long comment."""
    return b"P3\n#" + b"x" * comment + b"\n%d %d\n255\n" % (side, side) + b"7 " * values


def png(chunks: int) -> bytes:
    """A PNG with many empty chunks."""
    data = flat_png(8)
    empty = b"\0\0\0\0teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    return data[:33] + empty * chunks + data[33:]


def bmp(size: int) -> bytes:
    """A packed BMP of single pixels."""
    head = struct.pack("<IiiHHIIiiII", 40, 8192, 8192, 1, 8, 1, size, 1, 1, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + size, 0, 0, 1078) + head + bytes(1024) + b"\1\2" * (size // 2)


def overlapping_zip(size: int, times: int, suffix: str = ".png", head: bytes = b"") -> bytes:
    """A zip archive that lists its one member again and again, under other names; the member is zeros after a head."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(times):
            archive.writestr(f"{index:06d}{suffix}", head + bytes(size) if not index else b"")
        first = archive.filelist[0]
        for info in archive.filelist[1:]:
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(info, name, getattr(first, name))
    return stream.getvalue()


def strided(tensors: int, elements: int) -> bytes:
    """A file of ``torch.save`` with tensors of two elements each, the first and the last of one storage."""
    memory, stream = torch.zeros(elements), io.BytesIO()
    torch.save({f"t{index}": memory[:: elements - 1] for index in range(tensors)}, stream)
    return stream.getvalue()


def packed_tar(form: str, size: int, members: int = 1, name: str = "{:06d}.png") -> bytes:
    """A packed tar of members of nothing but zeros, in the reverse order of their names."""
    pack = bz2.compress if form == "bz2" else gzip.compress
    piece = pack(bytes(1 << 20))
    parts = []
    for index in range(members):
        info = tarfile.TarInfo(name.format(members - index))
        info.size = size
        rest = bytes((size & ((1 << 20) - 1)) + -size % 512)
        parts += [pack(info.tobuf()), piece * (size >> 20), pack(rest)]
    return b"".join(parts)


def large_jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG of a black square whose last scan comes again and again: some hundred bytes."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    frame = data.index(b"\xff\xc2")
    data = data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 :]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def flat_png(side: int) -> bytes:
    """A black PNG of one bit a pixel."""
    head, body = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), zlib.compress(bytes((1 + side // 8) * side), 9)
    chunks = {b"IHDR": head, b"IDAT": body, b"IEND": b""}
    parts = (struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flat_webp(side: int) -> bytes:
    """A black WebP without loss, of some thirty bytes."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "WEBP", lossless=True)
    data = stream.getvalue()
    head = int.from_bytes(data[21:25], "little") & ~0xFFFFFFF | (side - 1) | (side - 1) << 14
    return data[:21] + head.to_bytes(4, "little") + data[25:]


def zip_of_equals(picture: bytes, count: int, suffix: str) -> bytes:
    """A zip archive of equal pictures in two classes."""
    return zip_of({f"{index % 2}/{index:06d}{suffix}": picture for index in range(count)}, zipfile.ZIP_DEFLATED)
