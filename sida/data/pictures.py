"""Pictures: the formats that are read, the one place that opens them, and the one that writes PNG.

Left to itself, Pillow tries every plugin it has on a file's content, whatever the name says; one of them hands the
content to Ghostscript, a program of its own, and others have never been asked for here. So the formats are named.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np

from sida.errors import UserError

#: Pillow's name of the format by suffix. A picture may have another of these formats than its name says (a few of
#: ImageNet's do), but none beside them.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".ppm": "PPM", ".pgm": "PPM",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
PICTURES = frozenset(FORMATS)
#: The largest photograph of ImageNet has 61 million.
MOST_PIXELS = 1 << 26
#: What Pillow's decoders raise for damaged pictures, most of them by chance.
_FAULTS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_NAMES = tuple(dict.fromkeys(FORMATS.values()))


def open_picture(content: bytes, where: str, whole: bool = False) -> Any:
    """Decodes a picture of one of :data:`FORMATS`; of several frames, the first.

    Args:
        content: The encoded picture.
        where: Place named in errors.
        whole: Refuse a picture of which Pillow would give a part: the upper 8 bits of more, or one of several frames.

    Returns:
        A ``PIL.Image.Image`` with its pixels loaded; ``format`` is Pillow's name of what it was.

    Raises:
        UserError: Damaged, or of another format; with ``whole``, more than 8 bits or one frame.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(content), formats=_NAMES)
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"{picture.width}×{picture.height} pixels are more than {MOST_PIXELS:,}")
        lost = _lost(picture) if whole else None
        picture.load()
    except UnidentifiedImageError:
        reason = f"its content is none of {', '.join(_NAMES)}" if content else "it is empty"
    except (*_FAULTS, Image.DecompressionBombError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
    else:
        if lost is not None:
            raise UserError(f"{where}: {lost}")
        return picture
    raise UserError(f"{where}: not a readable picture ({reason}); replace or remove it")


def _lost(picture: Any) -> str | None:
    """What loading a picture leaves out, and the remedy; None where it is nothing."""
    # What the decoder is told: the form of the values, and of PPM the largest one. BMP's ";16" are three values.
    told = [word for tile in picture.tile for word in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if picture.format == "PPM":
        deep = any(isinstance(word, int) and word > 255 for word in told)
    else:
        deep = picture.format != "BMP" and any(";16" in str(word) for word in told)
    if deep:
        return "has more than 8 bits a value; convert all pictures to 8 bits first"
    # What stands behind the first picture of a JPEG are previews of it.
    frames = 1 if picture.format in ("JPEG", "MPO") else getattr(picture, "n_frames", 1)
    return f"holds {frames} frames; save each as a picture of its own" if frames > 1 else None


def encode_png(pixels: np.ndarray, compress_level: int = -1) -> bytes:
    """A PNG file of uint8 ``(H, W)`` or ``(H, W, C)`` with 1 or 3 channels.

    Args:
        pixels: The picture.
        compress_level: 0 (none; fast) to 9; −1 is zlib's own choice.
    """
    from PIL import Image

    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", compress_level=compress_level)
    return stream.getvalue()
