"""Small files that ask for endless work or memory, made here."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
import zlib

from PIL import Image

from tests.data.test_archive import zip_of


def gif(comment: int) -> bytes:
    """A GIF with a comment of blocks of one byte."""
    stream = io.BytesIO()
    Image.new("P", (64, 64), 1).save(stream, "GIF")
    data = stream.getvalue()
    frame = data.rindex(b",\0\0\0\0")
    return data[:frame] + b"!\xfe" + b"\1x" * comment + b"\0" + data[frame:]


def tiff(directories: int, strips: int = 1) -> bytes:
    """A TIFF of many directories of one pixel each, or of many strips that are not there."""
    entries = [(256, 4, 1, 1), (257, 4, 1, strips), (258, 4, 1, 8), (262, 4, 1, 1), (273, 4, strips, 8), (279, 4, 1, 1)]
    body, size = b"", 2 + 12 * len(entries) + 4
    for index in range(directories):
        tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        after = 10 + (index + 1) * size if index + 1 < directories else 0
        body += struct.pack("<H", len(entries)) + tags + struct.pack("<I", after)
    return b"II*\0" + struct.pack("<I", 10) + b"\x80\0" + body


def ppm(values: int, side: int = 16_384) -> bytes:
    """A plain PPM of many values."""
    return b"P3\n%d %d\n255\n" % (side, side) + b"7 " * values


def jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG of a black square whose last scan comes again and again: some hundred bytes."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    frame = data.index(b"\xff\xc2")
    data = data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 :]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def png(side: int, chunks: int = 0) -> bytes:
    """A black PNG of one bit a pixel, with many empty chunks."""
    head, body = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), zlib.compress(bytes((1 + side // 8) * side), 9)
    parts = [(b"IHDR", head), *[(b"teXt", b"")] * chunks, (b"IDAT", body), (b"IEND", b"")]
    made = (struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def webp(side: int) -> bytes:
    """A black WebP without loss, of some thirty bytes."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "WEBP", lossless=True)
    data = stream.getvalue()
    head = int.from_bytes(data[21:25], "little") & ~0xFFFFFFF | (side - 1) | (side - 1) << 14
    return data[:21] + head.to_bytes(4, "little") + data[25:]


def overlapping_zip(size: int, times: int, suffix: str = ".png") -> bytes:
    """A zip archive that lists its one member, of zeros, again and again under other names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(times):
            archive.writestr(f"{index:06d}{suffix}", bytes(size) if not index else b"")
        first = archive.filelist[0]
        for info in archive.filelist[1:]:
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(info, name, getattr(first, name))
    return stream.getvalue()


def packed_tar(form: str, size: int) -> bytes:
    """A packed tar of a member of nothing but zeros."""
    pack = bz2.compress if form == "bz2" else gzip.compress
    info = tarfile.TarInfo("0.png")
    info.size = size
    return pack(info.tobuf()) + pack(bytes(1 << 20)) * (size >> 20) + pack(bytes(1024))


def endless_tars(levels: int) -> bytes:
    """Tars within each other."""
    data = bytes(1024)
    for _ in range(levels):
        info = tarfile.TarInfo("x.tar")
        info.size = len(data)
        data = info.tobuf() + data + bytes(-len(data) % 512)
    return data + bytes(1024)


def zip_of_equals(picture: bytes, count: int, suffix: str = ".png") -> bytes:
    """A zip archive of equal pictures in two classes."""
    return zip_of({f"{index % 2}/{index:06d}{suffix}": picture for index in range(count)}, zipfile.ZIP_DEFLATED)
