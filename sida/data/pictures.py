"""Reading of untrusted pictures of a few formats, and writing of PNG.

By default Pillow tries all its plugins on a file's content, and one of them starts Ghostscript. So this module allows
a list of formats only.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.errors import UserError
from sida.files.archives import FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Limit of pixels; the largest photograph of ImageNet has 61 million.
MOST_PIXELS = 1 << 26
#: Limit of the pixels of all pictures of an archive or folder: as many as two of the largest have, and some for each
#: byte. Flat pictures of one bit have a thousand pixels in a byte, photographs have ten.
MOST_SUM, PIXELS_PER_BYTE = 2 * MOST_PIXELS, 256
#: Scans of a JPEG that cost what the pixels of another picture cost; more scans count as more pixels.
_FREE_SCANS = 10
#: Limits of scans and segments of a JPEG, and of chunks of a PNG (and one more for each KiB).
MOST_SCANS, MOST_SEGMENTS, MOST_CHUNKS = 100, 5_000, 1_000
#: Limit of strips or tiles of a TIFF.
MOST_STRIPS = 1 << 18
#: Limits in bytes of formats that Pillow's Python code reads value by value: GIF; plain PPM and packed BMP.
MOST_BLOCKS, MOST_PLAIN = 16 << 20, 4 << 20
_NUMBER = rb"(?:\s|#[^\r\n]*[\r\n])+(?:%s)"
_SIDES = 2 * (_NUMBER % rb"\d+")
#: Headers of PPM files with raw pixels.
_RAW_PPM = re.compile(rb"P(?:4%b|[56]%b%b)\s" % (_SIDES, _SIDES, _NUMBER % rb"255"))
#: Markers of a JPEG that begin a segment.
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
#: Exceptions of Pillow's decoders for damaged pictures.
_FAULTS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_NAMES = tuple(dict.fromkeys(FORMATS.values()))


class PixelSum:
    """Pixels of the pictures of an archive or folder, refused where its bytes do not explain them.

    Args:
        path: The archive or folder, named in errors.
        size: Its bytes.
    """

    def __init__(self, path: str, size: int) -> None:
        self._path, self._left = path, MOST_SUM + PIXELS_PER_BYTE * size
        self._free, self._changed = MOST_PIXELS, threading.Condition()

    @contextlib.contextmanager
    def turn(self) -> Iterator[Callable[[int], None]]:
        """Yields :meth:`add` for one picture, which waits until the turns of all threads have at most the pixels of one
        of the largest pictures.
        """
        held = 0

        def add(pixels: int) -> None:
            nonlocal held
            self.add(pixels)
            with self._changed:
                self._changed.wait_for(lambda: pixels <= self._free)
                self._free -= (held := pixels)

        try:
            yield add
        finally:
            with self._changed:
                self._free += held
                self._changed.notify_all()

    def add(self, pixels: int) -> None:
        """Counts pixels before they are decoded.

        Raises:
            UserError: The pictures have too many.
        """
        with self._changed:
            self._left -= pixels
        if self._left < 0:
            fault = f"its pictures have more than {MOST_SUM:,} pixels and {PIXELS_PER_BYTE} for each byte"
            raise UserError(self._path, fault, "make them smaller, or take fewer at a time")


def open_picture(
    content: bytes,
    where: str,
    whole: bool = False,
    load: bool = True,
    size: tuple[int, int] | None = None,
    add: Callable[[int], None] | None = None,
) -> Any:
    """Decodes the first frame of a picture of one of :data:`FORMATS`.

    Args:
        content: The encoded picture.
        where: Place named in errors.
        whole: Whether to refuse a picture that Pillow would truncate to 8 bits per value or to one frame.
        load: Whether to decode its pixels; else only the header is read.
        size: Width and height of the pictures that are decoded; of others only the header is read.
        add: Called with its number of pixels before they are decoded (:class:`PixelSum`).

    Returns:
        A ``PIL.Image.Image``; ``format`` is Pillow's name of the format.

    Raises:
        UserError: The picture is damaged or of another format; with ``whole``, it has more than 8 bits or one frame.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        scans = _check_work(content)
        # Pillow makes room for a WebP as it opens it, so its header is read here.
        opened = functools.cache(lambda: Image.open(io.BytesIO(content), formats=_NAMES))
        width, height = _webp_size(content) if content[8:12] == b"WEBP" else opened().size
        work = width * height * max(1, scans // _FREE_SCANS)
        if work > MOST_PIXELS:
            often = f" in {scans} scans" if scans > _FREE_SCANS else ""
            raise ValueError(f"{width}×{height} pixels{often} are more than {MOST_PIXELS:,}")
        if add is not None:
            add(work)
        picture = opened()
        lost = _lost(picture) if whole else None
        if load and size in (None, picture.size):
            picture.load()
    except UnidentifiedImageError:
        reason = f"its content is none of {', '.join(_NAMES)}" if content else "it is empty"
    except (*_FAULTS, Image.DecompressionBombError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
    else:
        if lost is not None:
            raise UserError(where, lost)
        return picture
    raise UserError(where, f"not a readable picture ({reason})", "replace or remove it")


def _lost(picture: Any) -> str | None:
    """Loss when a picture is loaded, with the remedy, or None."""
    # Arguments of the decoder: the form of the values, and for PPM the largest value. BMP's ";16" are three values.
    words = [word for tile in picture.tile for word in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if picture.format == "PPM":
        deep = any(isinstance(word, int) and word > 255 for word in words)
    else:
        deep = picture.format != "BMP" and any(";16" in str(word) for word in words)
    if deep:
        return "has more than 8 bits a value; convert all pictures to 8 bits first"
    # Further pictures in a JPEG are previews. Counting frames would read all of them.
    several = picture.format not in ("JPEG", "MPO") and getattr(picture, "is_animated", False)
    return "holds several frames; save each as a separate picture" if several else None


def _check_work(content: bytes) -> int:
    """Refuses pictures that Pillow reads slowly, regardless of their size in pixels; returns the scans of a JPEG.

    Raises:
        ValueError: The picture has too many scans, segments, chunks, strips or bytes.
    """
    if content[:3] == b"GIF" and len(content) > MOST_BLOCKS:
        raise ValueError(f"a GIF of more than {MOST_BLOCKS >> 20} MiB")
    plain = content[:1] == b"P" and not _RAW_PPM.match(content, 0, 1024)
    packed = content[:2] == b"BM" and content[30:34] in (b"\1\0\0\0", b"\2\0\0\0")
    if (plain or packed) and len(content) > MOST_PLAIN:
        raise ValueError(f"a plain PPM or packed BMP of more than {MOST_PLAIN >> 20} MiB")
    if content[:2] == b"\xff\xd8":
        return _count_scans(content)
    if content[:4] == b"\x89PNG" and not few_chunks(content):
        raise ValueError(f"more than {MOST_CHUNKS:,} chunks and one for each KiB")
    if content[:2] in (b"II", b"MM"):
        _check_strips(content, "<" if content[:1] == b"I" else ">")
    return 1


def _count_scans(content: bytes) -> int:
    place, scans = 2, 0
    for _ in range(MOST_SEGMENTS):
        found = _SEGMENT.search(content, place)
        if found is None or found[1] == b"\xd9":
            return scans
        scans += found[1] == b"\xda"
        if scans > MOST_SCANS:
            raise ValueError(f"a JPEG of more than {MOST_SCANS} scans")
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    raise ValueError(f"a JPEG of more than {MOST_SEGMENTS:,} segments")


def few_chunks(png: bytes) -> bool:
    """Whether a PNG has a plausible number of chunks for its bytes; IDAT chunks have at least 8 KiB in practice."""
    place, left = 8, MOST_CHUNKS + (len(png) >> 10)
    while place < len(png) and left:
        place += 12 + int.from_bytes(png[place : place + 4])
        left -= 1
    return place >= len(png)


def _webp_size(content: bytes) -> tuple[int, int]:
    kind, number = content[12:16], lambda begin, end: int.from_bytes(content[begin:end], "little")
    if kind == b"VP8X":
        return 1 + number(24, 27), 1 + number(27, 30)
    if kind == b"VP8L":
        return 1 + (number(21, 25) & 0x3FFF), 1 + (number(21, 25) >> 14 & 0x3FFF)
    return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF


def _check_strips(content: bytes, order: str) -> None:
    big = content[2:4] in (b"+\0", b"\0+")
    wide, entry = ("Q", "HHQQ") if big else ("I", "HHII")
    (place,) = struct.unpack_from(order + wide, content, 8 if big else 4)
    (tags,) = struct.unpack_from(order + ("Q" if big else "H"), content, place)
    for index in range(min(tags, 1 << 16)):
        at = place + (8 if big else 2) + index * struct.calcsize(order + entry)
        tag, _, count, _ = struct.unpack_from(order + entry, content, at)
        if tag in (273, 279, 324, 325) and count > MOST_STRIPS:
            raise ValueError(f"a TIFF of {count:,} strips, more than {MOST_STRIPS:,}")


def encode_png(pixels: np.ndarray | Image, compress_level: int = -1) -> bytes:
    """Encodes uint8 ``(H, W)`` or ``(H, W, C)`` with 1 or 3 channels, or an image's pixels, as a PNG file.

    Args:
        pixels: The picture.
        compress_level: 0 (none; fast) to 9; −1 is zlib's default.
    """
    from PIL import Image

    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels))
    pixels.info.clear()  # a profile or transparency of the source would be written, too
    stream = io.BytesIO()
    pixels.save(stream, format="PNG", compress_level=compress_level)
    return stream.getvalue()
