"""Decodes pictures, crops and scales them to squares, and encodes PNG.

Pictures of strangers are opened in a child process alone (:mod:`sida.data.reader`). By default Pillow tries all its
plugins on a file's content, and one of them starts Ghostscript. So this module allows a list of formats only.
"""

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from sida.errors import UserError, reason_of
from sida.files.content import START, placeholder_in
from sida.files.foreign import read_npy

#: Pillow's name of the format by suffix. A picture's format may differ from its suffix (as a few of ImageNet's do), but
#: must be one of these.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".ppm": "PPM", ".pgm": "PPM",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".jfif": "JPEG",
}  # fmt: skip
PICTURES = frozenset(FORMATS)
#: Suffixes of pictures that are not read.
UNREAD = frozenset((".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".tga", ".psd", ".dng", ".exr"))
#: Largest number of pixels of a picture that is decoded outside of a child.
_MOST_PIXELS = 1 << 26
#: Remedy for pictures that are not squares of one size.
ONE_SIZE = "give --resolution N"
# Texts in PNG files (settings of a program, a history) are not read; the reader's limits bound their memory.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 256 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
#: Content of PNG's chunk cICP, and of gAMA (in 1/100,000), for sRGB.
_CICP_OF_SRGB, _GAMMA_OF_SRGB = bytes((1, 13, 0, 1)), 45_455
_NAMES = tuple(dict.fromkeys(FORMATS.values()))
_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_SRGB: Any = ImageCms.createProfile("sRGB")
#: Values that are whole pixels of 1, 3 and 4 channels, and the difference of levels that rounding makes.
_PROBE, _SAME_LEVELS = np.indices((6, 6, 6), np.uint8).reshape(3, -1).T.repeat(4, 0) * np.uint8(51), 2
#: Pillow's modes of pictures without colours.
GREY = ("1", "L", "LA", "La")
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey", "P": "palette",
}  # fmt: skip


def open_picture(content: bytes, complete: bool = False, load: bool = True, size: tuple[int, int] | None = None) -> Any:
    """Decodes the first frame of a picture of one of :data:`FORMATS`.

    Args:
        content: The encoded picture.
        complete: Whether to refuse a picture that Pillow would truncate to 8 bits per value or to one frame.
        load: Whether to decode its pixels; else only the header is read.
        size: Width and height of pictures to decode; only the header of other pictures is read. None decodes all.

    Returns:
        A ``PIL.Image.Image``; ``format`` is Pillow's name of the format.

    Raises:
        UserError: The picture is damaged or of another format; with ``complete``, it has more than 8 bits a value or
            more than one frame.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=_NAMES)
        if complete and (loss := _loss(picture)):
            raise UserError("", *loss)
        if load and size in (None, picture.size):
            picture.load()
            picture = _upright(picture)
            picture.info["colours"] = _other_colours(content)
        return picture
    except (MemoryError, UserError):
        raise
    except UnidentifiedImageError:
        if (text := placeholder_in(content[:START])) is not None and not text.is_plain:
            raise UserError("", f"is {text.kind}, not a picture", text.remedy) from None
        reason = f"its content is none of {', '.join(_NAMES)}" if content else "it is empty"
    except Exception as error:  # Pillow's decoders raise many kinds for damaged bytes.
        reason = reason_of(error)
    raise UserError("", f"not a readable picture ({reason})", "replace or remove it")


def _upright(picture: Any) -> Any:
    """The picture as viewers show it, by its EXIF orientation; ``info["turned"]`` is set if it was turned."""
    method = Image.Transpose
    turns = {
        2: method.FLIP_LEFT_RIGHT, 3: method.ROTATE_180, 4: method.FLIP_TOP_BOTTOM, 5: method.TRANSPOSE,
        6: method.ROTATE_270, 7: method.TRANSVERSE, 8: method.ROTATE_90,
    }  # fmt: skip
    turn = turns.get(picture.getexif().get(0x0112, 1))
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    # Pillow's copy loses both.
    turned.format, turned.info = picture.format, {**picture.info, "turned": True}
    return turned


def as_shown(picture: Any) -> Any:
    """A picture as viewers show it: transparency on white, and the colours of its ICC profile in sRGB.

    ``info["profile"]`` of the given picture is the name of a profile whose colours were changed. The values of pictures
    in sRGB stay as they are, and a damaged profile counts as none.
    """
    shown, content = picture, picture.info.get("icc_profile")
    if "transparency" in picture.info or picture.mode in _ALPHA:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        shown = white.convert("L" if picture.mode in GREY else "RGB")
    if not content:
        return shown
    shown = shown.convert("RGB") if shown.mode == "P" else shown
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        # Colours all over the cube: a profile of sRGB leaves them.
        probe = Image.frombytes(shown.mode, (_PROBE.size // len(shown.getbands()), 1), _PROBE.tobytes())
        if np.abs(_in_srgb(probe, profile).astype(int) - np.asarray(probe.convert("RGB"))).max() <= _SAME_LEVELS:
            return shown
        pixels = Image.fromarray(_in_srgb(shown, profile))
        picture.info["profile"] = ImageCms.getProfileDescription(profile).strip()[:60]
        return pixels.convert("L") if shown.mode == "L" else pixels
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return shown


def _in_srgb(picture: Any, profile: Any) -> np.ndarray:
    """Pixels (H, W, 3) in sRGB."""
    return np.asarray(ImageCms.profileToProfile(picture, profile, _SRGB, outputMode="RGB"))


def mode_words(picture: Any) -> str:
    """Description of a picture's mode, and of the changes made to store it."""
    kind = _MODES.get(picture.mode, picture.mode)
    if "transparency" in picture.info or picture.mode in _ALPHA:
        kind = f"{kind} with its transparency on white"
    if name := picture.info.get("profile"):
        kind = f"{kind} with the colours of its profile '{name}'"
    if name := picture.info.get("colours"):
        kind = f"{kind} with {name}, which is not applied"
    return f"{kind}, turned by its EXIF orientation" if picture.info.get("turned") else kind


def _loss(picture: Any) -> tuple[str, str] | None:
    """Fault and remedy of a picture that loses values when it is loaded, or None."""
    # Arguments of the decoder: the form of the values, and for PPM the largest value. BMP's ";16" are three values.
    words = [word for tile in picture.tile for word in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if picture.format == "PPM":
        deep = any(isinstance(word, int) and word > 255 for word in words)
    else:
        deep = picture.format != "BMP" and any(";16" in str(word) for word in words)
    if deep:
        return "has more than 8 bits a value", "convert all pictures to 8 bits first"
    # Further pictures in a JPEG are previews. Counting the frames (n_frames) would read all of them.
    several = picture.format not in ("JPEG", "MPO") and getattr(picture, "is_animated", False)
    return ("holds several frames", "save each as a separate picture") if several else None


def decode_picture(content: bytes, size: tuple[int, int] | None) -> tuple[np.ndarray, str | None]:
    """Decodes a grey or RGB picture: uint8 ``(C, H, W)``, and what measuring notes of it (:data:`NOTED`) or None.

    A picture of another width and height than ``size`` is not decoded: its array has only the shape.
    """
    picture = open_picture(content, complete=True, size=size)
    if picture.mode not in ("L", "RGB"):
        remedy = "must be 8-bit grey or RGB: convert all pictures (sida data prepare does it)"
        raise UserError("", f"has mode {picture.mode}", remedy)
    if size not in (None, picture.size):
        # Takes no memory, whatever size the header claims.
        return np.broadcast_to(np.uint8(0), (len(picture.mode), picture.height, picture.width)), None
    return np.stack([np.asarray(plane) for plane in picture.split()]), _noted(picture, content)


#: Notes on kinds of pictures that are measured as they are.
NOTED = dict.fromkeys(
    ("JPEG", "TIFF with JPEG inside", "lossy WebP"), "whose artefacts raise distances; protocols take lossless images"
) | dict.fromkeys(
    ("PNG with gAMA", "PNG with cICP"), "whose colours are not sRGB's; values are taken as they are stored"
)


def _noted(picture: Any, encoded: bytes) -> str | None:
    if picture.info.get("colours"):
        return f"PNG with {picture.info['colours']}"
    # MPO is Pillow's name of a JPEG with further pictures in the file.
    if picture.format in ("JPEG", "MPO"):
        return "JPEG"
    if picture.format == "TIFF" and "jpeg" in str(picture.info.get("compression")):
        return "TIFF with JPEG inside"
    offset = 12 if picture.format == "WEBP" else len(encoded)
    while offset < len(encoded):  # chunks of a RIFF file: name, size, content padded to an even length
        if encoded[offset : offset + 4] == b"VP8 ":
            return "lossy WebP"
        size = int.from_bytes(encoded[offset + 4 : offset + 8], "little")
        offset += 8 + size + size % 2
    return None


def _other_colours(content: bytes) -> str | None:
    """Name of the chunk by which a PNG's values have other colours than sRGB's; None for any other picture."""
    chunks: dict[bytes, bytes] = {}
    offset = len(_PNG) if content.startswith(_PNG) else len(content)
    while offset + 8 <= len(content) and (kind := content[offset + 4 : offset + 8]) != b"IDAT":
        size = int.from_bytes(content[offset : offset + 4], "big")
        chunks[kind] = content[offset + 8 : offset + 8 + size]
        offset += 12 + size
    if b"cICP" in chunks:
        return None if chunks[b"cICP"] == _CICP_OF_SRGB else "cICP"
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    is_other = bool(gamma) and abs(gamma - _GAMMA_OF_SRGB) > _GAMMA_OF_SRGB // 50
    # Profiles and the chunk of sRGB go before it.
    return "gAMA" if is_other and not chunks.keys() & {b"sRGB", b"iCCP"} else None


def checked_array(array: np.ndarray) -> np.ndarray:
    """An image ``(C, H, W)`` in an array, uint8 or finite float32.

    Raises:
        UserError: The array is another one.
    """
    if array.ndim != 3 or array.dtype not in (np.uint8, np.float32) or not array.size:
        actual = f"{'×'.join(map(str, array.shape))} {array.dtype}"
        raise UserError("", f"npy must be (C, H, W) of uint8 or float32, got {actual}")
    if array.dtype != np.uint8 and not np.isfinite(array).all():
        raise UserError("", "holds NaN or infinities", "encode the image again")
    return array


def decode_own(content: bytes, shape: Sequence[int] | None, only_pictures: bool) -> np.ndarray | None:
    """Image ``(C, H, W)`` of a PNG or npy as this package writes it; None for any other.

    Such a PNG has 8 bits a value, grey or RGB, and no chunk but IHDR, IDAT and IEND. One of another shape than the
    given one is not decoded: its array has only the shape.

    Raises:
        UserError: The file is damaged.
    """
    if content.startswith(np.lib.format.MAGIC_PREFIX):
        return None if only_pictures else checked_array(read_npy(content))
    if (sides := _own_sides(content)) is None:
        return None
    if shape not in (None, sides, [*sides]):
        return np.broadcast_to(np.uint8(0), sides)
    pixels = np.asarray(open_picture(content))
    return pixels[None] if sides[0] == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _own_sides(content: bytes) -> tuple[int, int, int] | None:
    """Channels, height and width of a PNG as this package writes it; None for any other."""
    if content[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or len(content) < 33:
        return None
    width, height, depth, colours, *others = struct.unpack_from(">IIBBBBB", content, 16)
    position, name = 33, b"IDAT"
    while name == b"IDAT" and position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        position += 12 + length
    is_own = name == b"IEND" and position == len(content) and depth == 8 and colours in (0, 2) and not any(others)
    return (3 if colours else 1, height, width) if is_own and 0 < width * height <= _MOST_PIXELS else None


def to_square(picture: Image.Image, transform: str, resolution: int | None, channels: int) -> Image.Image:
    """Applies a transform of :mod:`sida.data.prepare`.

    Args:
        picture: 8 bits per channel, any mode.
        transform: ``none``, ``center-crop`` or ``center-crop-dhariwal``.
        resolution: Target height and width; None keeps the (cropped) size.
        channels: 3 makes everything RGB, 1 makes it grey.

    Returns:
        RGB or grey, square.

    Raises:
        UserError: Without cropping, the picture is not square and has no target size; or its values are not 8-bit grey
            or RGB.
    """
    # LAB and HSV have other colours; I and F have more than 8 bits a value, which convert() would cut off.
    if picture.mode in ("LAB", "HSV") or picture.mode.startswith(("I", "F")):
        raise UserError("", f"has mode {picture.mode}", "convert it to 8-bit grey or RGB first")
    mode = "RGB" if channels == 3 else "L"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if transform == "center-crop-dhariwal":
        return _shrink_then_crop(picture, resolution or min(picture.size))
    if transform == "center-crop":
        picture = _middle(picture, min(picture.size))
    width, height = picture.size
    if resolution is None and width != height:
        raise UserError("", f"is {width}×{height}", ONE_SIZE)
    if resolution is not None and (width, height) != (resolution, resolution):
        picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return picture


def _shrink_then_crop(picture: Image.Image, resolution: int) -> Image.Image:
    while min(picture.size) >= 2 * resolution:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = resolution / min(picture.size)
    # The original rounds the long side by Python's round: halves to even.
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    return _middle(picture, resolution)


def _middle(picture: Image.Image, side: int) -> Image.Image:
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def encode_png(pixels: np.ndarray | Image.Image, compress_level: int = -1) -> bytes:
    """Encodes uint8 ``(H, W)`` or ``(H, W, C)`` with 1 or 3 channels, or an image's pixels, as a PNG file.

    Args:
        pixels: The picture.
        compress_level: 0 (none; fast) to 9; −1 is zlib's default.
    """
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels))
    # A profile or transparency of the source would be written too, and equal pixels must give equal bytes.
    pixels.info.clear()
    stream = io.BytesIO()
    pixels.save(stream, format="PNG", compress_level=compress_level)
    return stream.getvalue()
