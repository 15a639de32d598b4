"""Readers of untrusted archives, arrays, labels and pictures, for the fenced child process.

The child (:mod:`sida.files.fenced`) has limits of time and memory; this module adds checks for wrong data that
libraries accept silently. Its caller is :mod:`sida.data.archive`.
"""

from __future__ import annotations

import array
import bz2
import contextlib
import errno
import gzip
import io
import itertools
import json
import lzma
import math
import os
import posixpath
import stat
import struct
import tarfile
import tokenize  # noqa: F401 - numpy needs it for headers that Python 2 wrote, and cannot import it later
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sida.data.label_files import WITHOUT_LABELS, parse_labels, relative_name, same_name
from sida.data.links import Tree, under
from sida.data.pictures import (
    GREY,
    ONE_SIZE,
    as_shown,
    decode_picture,
    encode_png,
    mode_words,
    open_picture,
    to_square,
)
from sida.errors import UserError, errors_at, reason_of
from sida.files.content import placeholder_in
from sida.files.fenced import ANY_ARRAY, BYTES, KINDS, SHAPE, Either, fits, only_in_child

#: Largest number of classes: labels become one-hot rows of this width.
MAX_CLASSES = 100_000
#: A value and arrays by name.
Answer = tuple[Any, dict[str, Any]]
#: Name and location of each member; a folder's files have none.
Members = Sequence[tuple[str, Sequence[int] | None]]
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_LONGEST_PATH = 4096
_LOCAL_HEADER = struct.Struct("<4s22xHH")
#: Bytes of a piece of an unpacked archive.
PIECE = 32 << 20
_REMEDY = "make or fetch it again, or give pictures in a folder, zip, tar, npz or npy"
# Forms of answers: no array, types of pixels, and types of arrays in either order of bytes.
_NONE: dict[str, Any] = {}
_PIXELS = Either(("|u1", "<f4"))
_NUMBERS = Either((*KINDS, *(kind.replace("<", ">") for kind in KINDS)))


class Reader:
    """Answers for one archive, folder or array.

    A request for members of an archive has the name and the location (see :meth:`index`) of each, and the archive as
    its one file; a request for files of a folder has the names and the files.
    """

    FORMS = {
        "index": (Either((None, ([str], [str]))), Either((_NONE, {"locations": ("<i8", (int, int))}))),
        "unpack": (None, {"bytes": BYTES}), "intact": (bool, _NONE), "content": (None, {"content": BYTES}),
        "images": (
            {
                "shape": SHAPE, "kind": _PIXELS, "lossy": [Either((None, str))],
                "differing": Either((None, (SHAPE, _PIXELS))),
            },
            Either((_NONE, {"images": (_PIXELS, (int, int, int, int))})),
        ),
        "headers": ([(int, int, int)], _NONE),
        "squares": ([Either(((str, bool, bool), (str, str, str)))], {str: BYTES}),
        "rgb": (None, {"pixels": ("|u1", (int, int, int))}),
        "labels": (None, Either((_NONE, {"labels": ("<i8", (int,))}))), "latents": ({str: str}, _NONE),
        "arrays": ({"numbers": {str: (SHAPE, _NUMBERS, bool)}, "unread": {str: str}}, _NONE),
        "rows": (None, {"rows": (ANY_ARRAY[0], (int,))}),
    }  # fmt: skip

    def __init__(self) -> None:
        only_in_child()
        self._packed: Any = None
        # The fence forbids later imports, so each format is written and read once here.
        Image.preinit()
        wide = (f"utf-{bits}{order}" for bits in (16, 32) for order in ("", "-le", "-be"))
        for name in ("cp437", "ascii", "latin-1", "idna", "utf-8", "utf-8-sig", *wide):
            "".encode(name)
        for mode, form in (("L", "PNG"), ("RGB", "TIFF"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "JPEG"), ("L", "PPM")):
            stream = io.BytesIO()
            Image.new(mode, (8, 8)).save(stream, form)
            picture = as_shown(open_picture(stream.getvalue()))
            square = to_square(picture, "center-crop-dhariwal", 4, 3)
            encode_png(square.resize((3, 3), Image.Resampling.LANCZOS))
        stream = io.BytesIO()
        np.save(stream, np.zeros(1))
        read_array(stream.getvalue())
        placeholder_in(b"two\nlines")

    # Archives

    def index(self, files: list[BinaryIO]) -> Answer:
        """Names of an archive's members, sorted, its empty folders, and the members' locations.

        A location is offset, packed and unpacked size, CRC (-1: none) and method of compression. A link has the
        location of its file. The value is None for a packed archive, which :meth:`unpack` reads.
        """
        (archive,) = files
        start = archive.peek(512)[:512]  # type: ignore[attr-defined]
        if start[:2] in _PACKED:
            self._packed = _PACKED[start[:2]](archive)
            return None, {}
        read = _zip_members if start[:2] == b"PK" else _tar_members
        # Five numbers a member: a list of tuples of a million members would take many times the memory.
        names: list[str] = []
        flat = array.array("q")
        tree = Tree([], {})
        for name, *location in itertools.chain(read(archive, tree), tree.linked(names, flat)):
            names.append(name)
            flat.extend(location)
        assert len(flat) == 5 * len(names)
        order = sorted(range(len(names)), key=names.__getitem__)
        names = [names[index] for index in order]
        for name, after in itertools.pairwise(names):
            if name == after:
                raise UserError(f": {name}", "occurs twice", "make the archive again")
        empty = [folder for folder in tree.folders if folder and not under(names, folder)]
        return [names, empty], {"locations": np.frombuffer(flat, np.int64).reshape(-1, 5)[order]}

    def unpack(self, files: list[BinaryIO]) -> Answer:
        """The next bytes of a packed archive."""
        try:
            return None, {"bytes": np.frombuffer(self._packed.read(PIECE), np.uint8)}
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UserError("", f"is not a complete packed archive ({error})", "make or fetch it again") from None

    def intact(self, files: list[BinaryIO]) -> Answer:
        """Whether a zip archive has members, and all have the bytes of their checksums.

        Raises:
            MemoryError, OSError: It cannot be read; its content may be intact.
        """
        try:
            archive = zipfile.ZipFile(files[0])
            return bool(archive.namelist()) and archive.testzip() is None, {}
        except MemoryError:
            raise
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):
                raise
            return False, {}
        except Exception:  # The library raises many kinds for bytes that are not a zip archive.
            return False, {}

    def content(self, files: list[BinaryIO], members: Members) -> Answer:
        """Bytes of a member."""
        with _content(files, members, 0) as content:
            return None, {"content": np.frombuffer(content, np.uint8)}

    # Pictures

    def images(self, files: list[BinaryIO], members: Members, shape: Any, kind: Any, only_pictures: bool) -> Answer:
        """Images ``(n, C, H, W)``, uint8, or float32 of arrays.

        ``shape`` and ``kind`` are the expected ones; None takes them from the first image. The first image that differs
        ends the answer, which has its shape and kind as ``differing``; if it is a picture it is not decoded.

        Pictures that lose values are refused, with ``only_pictures`` arrays as well; ``lossy`` of the value names the
        lossy compression of each image.
        """
        images, lossy, differing = [], [], None
        for index in range(len(members)):
            with _content(files, members, index) as content:
                if content.startswith(np.lib.format.MAGIC_PREFIX) and not only_pictures:
                    image, loss = _checked_array(read_array(content)), None
                else:
                    size = None if shape is None else (shape[2], shape[1])
                    image, loss = decode_picture(content, size)
            layout = [list(image.shape), image.dtype.str]
            if shape is None:
                shape, kind = layout
            if layout != [shape, kind]:
                differing = layout
                break
            images.append(image)
            lossy.append(loss)
        value = {"shape": shape, "kind": kind, "differing": differing, "lossy": lossy}
        return value, {"images": images} if images else {}

    def headers(self, files: list[BinaryIO], members: Members) -> Answer:
        """Width, height and whether there are colours, for each picture; zeros for damaged ones, which fail later."""
        value = [[0, 0, 0] for _ in members]
        for index, facts in enumerate(value):
            with contextlib.suppress(UserError), _content(files, members, index) as content:
                picture = open_picture(content, load=False)
                facts[:] = *picture.size, int(picture.mode not in GREY)
        return value, {}

    def squares(
        self, files: list[BinaryIO], members: Members, transform: str, resolution: int | None, side: int, channels: int
    ) -> Answer:
        """For each picture a PNG, the description of its mode, and whether it was changed and squeezed; or a fault.

        A square of another side than ``side`` is a fault, unless ``side`` is 0.
        """
        value: list[list[Any]] = []
        parts: dict[str, np.ndarray] = {}
        for index in range(len(members)):
            try:
                with _content(files, members, index) as content:
                    picture = open_picture(content, complete=True)
                    result = to_square(as_shown(picture), transform, resolution, channels)
                    if side not in (0, result.width):
                        fault = f"is {result.width}×{result.width}, the first picture {side}×{side}"
                        raise UserError("", fault, ONE_SIZE)
                parts[str(index)] = np.frombuffer(encode_png(result, 0), np.uint8)
                squeezed = transform == "none" and picture.width != picture.height
                value.append([mode_words(picture), result.size != picture.size, squeezed])
            except UserError as error:
                value.append([error.where, error.fault, error.remedy])
        return value, parts

    def rgb(self, files: list[BinaryIO]) -> Answer:
        """Pixels ``(H, W, 3)`` of one picture."""
        return None, {"pixels": np.asarray(open_picture(files[0].read()).convert("RGB"))}

    def labels(self, files: list[BinaryIO], members: Members, names: Sequence[str] | None) -> Answer:
        """Classes int64 of the wanted pictures (None: of all) from a file of labels; no array if it has no labels."""
        with _content(files, members, 0) as content:
            labels = parse_labels(members[0][0], content)
            if labels is None:
                return None, {}
            for name in names or ():
                if labels.get(same_name(name)) is None:
                    raise UserError("", f"has no label for {name}", f"add it, or {WITHOUT_LABELS}")
            picked = [*labels.values()] if names is None else [labels[same_name(name)] for name in names]
            # JSON's true is True, which is an int.
            if not all(type(label) is int and 0 <= label < MAX_CLASSES for label in picked):
                fault = f"a label is not a whole number from 0 to {MAX_CLASSES - 1:,}"
                raise UserError("", fault, f"number classes 0, 1, 2, …, or {WITHOUT_LABELS}")
            return None, {"labels": np.array(picked, np.int64)}

    def latents(self, files: list[BinaryIO], members: Members) -> Answer:
        """Kind, spread and encoder of latents in a ``latents.json``."""
        with _content(files, members, 0) as content:
            try:
                facts = json.loads(content)
                further = {name: str(facts[name]) for name in ("spread", "encoder") if name in facts}
                return {"kind": str(facts["kind"]), **further}, {}
            except (ValueError, KeyError, TypeError):
                raise UserError("", "must be JSON with the key 'kind'", "encode the pixels again") from None

    # Arrays

    def arrays(self, files: list[BinaryIO]) -> Answer:
        """Shape, type and whether the first index runs fastest, by name, for the arrays of an npz, npy or idx file.

        Arrays of an npz that are not numbers are ``unread``, with the fault of each.
        """
        (file,) = files
        self._streams: dict[str, tuple[Any, int, np.dtype]] = {}
        start = file.peek(2)[:2]  # type: ignore[attr-defined]
        if start != b"PK":
            stream = gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file
            single = self._array("", stream, os.fstat(file.fileno()).st_size if stream is file else None)
            return {"numbers": {"": single}, "unread": {}}, {}
        arrays: dict[str, Any] = {}
        unread: dict[str, str] = {}
        archive = zipfile.ZipFile(file)
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                name = info.filename.removesuffix(".npy")
                if name in arrays or name in unread:
                    raise UserError(f": array '{name}'", "occurs twice", "make the file again")
                try:
                    arrays[name] = self._array(name, archive.open(info), info.file_size)
                except UserError as error:
                    unread[name] = error.fault
        return {"numbers": arrays, "unread": unread}, {}

    def _array(self, name: str, stream: Any, size: int | None) -> tuple[list[int], str, bool]:
        """Reads an array's header and keeps its stream."""
        shape, kind, fortran = _header(stream, size)
        self._streams[name] = (stream, stream.tell(), np.dtype(kind))
        return shape, kind, fortran

    def rows(self, files: list[BinaryIO], name: str, begin: int, count: int) -> Answer:
        """Elements ``begin … begin + count - 1`` of an array, as bytes in the file's order; forwards it is fast."""
        stream, start, dtype = self._streams[name]
        stream.seek(start + begin * dtype.itemsize)
        content = stream.read(count * dtype.itemsize)
        if len(content) != count * dtype.itemsize:
            raise UserError("", f"damaged: it ends before element {begin + count:,}", "make or fetch it again")
        return None, {"rows": np.frombuffer(content, dtype).astype(dtype.newbyteorder("<"), copy=False)}


@contextlib.contextmanager
def _content(files: list[BinaryIO], members: Members, index: int) -> Iterator[bytes]:
    """Content of a member of a request; errors here and in the block get the member's name, if it has one."""
    name, location = members[index]
    with errors_at(f": {name}" if name else ""):
        try:
            yield files[index].read() if location is None else _unpacked(files[0].fileno(), *location)
        except MemoryError:
            raise UserError("", "needs more memory than one picture may take", "remove it or make it smaller") from None


def _unpacked(handle: int, offset: int, packed: int, size: int, crc: int, method: int) -> bytes:
    """Content of an archive's member, read together with a zip's local header, which rarely exceeds 256 bytes."""
    if crc < 0:  # of a tar, which has no checksums of contents
        content = os.pread(handle, size, offset)
    else:
        block = os.pread(handle, _LOCAL_HEADER.size + 256 + packed, offset)
        magic, name_size, extra_size = _LOCAL_HEADER.unpack_from(block)
        start = _LOCAL_HEADER.size + name_size + extra_size
        content = block[start : start + packed]
        if len(content) < packed:
            content = os.pread(handle, packed, offset + start)
        if magic != b"PK\x03\x04" or len(content) < packed:
            raise UserError("", "damaged (cut off)", "fetch or prepare the archive again")
        if method == zipfile.ZIP_DEFLATED:
            # A byte more than recorded is a fault, and the rest stays packed.
            content = zlib.decompressobj(-15).decompress(content, size + 1)
        elif method != zipfile.ZIP_STORED:
            raise UserError("", f"compression method {method} is not supported", "make the archive again, deflated")
    if len(content) != size or (crc >= 0 and zlib.crc32(content) != crc):
        raise UserError("", "damaged (wrong checksum or size)", "fetch or prepare the archive again")
    return content


def _zip_members(file: BinaryIO, tree: Tree) -> Iterator[tuple[str, int, int, int, int, int]]:
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError("", f"not a whole zip archive ({error})", "fetch or prepare it again") from None
    for info in members:
        if info.flag_bits & 1:
            raise UserError("", "is encrypted", "unpack it and prepare it again")
        name = info.filename.replace("\\", "/")  # Windows PowerShell writes backslashes
        if name.endswith("/"):
            tree.folders.append(relative_name(name).rstrip("/"))
        elif stat.S_ISLNK(info.external_attr >> 16):
            if info.file_size > _LONGEST_PATH:
                raise UserError(f": {name}", "is a link with an impossible path", _REMEDY)
            tree.link(relative_name(name), archive.read(info).decode(errors="replace"))
        else:
            sizes = info.compress_size, info.file_size
            yield relative_name(name), info.header_offset, *sizes, info.CRC, info.compress_type


def _tar_members(
    file: Any, tree: Tree, prefix: str = "", base: int = 0, levels: int = 3
) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Regular files of a tar archive, and of the tars in it (ImageNet is a tar of one tar per class).

    Names begin with ``prefix``; folders and links are added to the tree.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            offset = -1
            for member in archive:
                # A header that leads backwards would be read for ever.
                if archive.offset <= offset or member.size < 0:
                    raise tarfile.ReadError("its sizes are impossible")
                # The library keeps all members, which may be millions.
                offset, archive.members = archive.offset, []  # type: ignore[attr-defined]
                name = prefix + relative_name(member.name)
                begin = base + member.offset_data
                if member.issparse():
                    raise UserError(f": {name}", "is stored as a sparse file", "pack it again without --sparse")
                if member.isdir():
                    tree.folders.append(name.rstrip("/"))
                elif member.islnk():
                    tree.links[name] = posixpath.normpath(prefix + relative_name(member.linkname))
                elif member.issym():
                    tree.link(name, member.linkname)
                elif not member.isreg():
                    continue  # pipes and devices
                elif name.endswith(".tar") and levels:
                    tree.folders.append(name.removesuffix(".tar"))
                    inner = f"{name.removesuffix('.tar')}/"
                    yield from _tar_members(archive.extractfile(member), tree, inner, begin, levels - 1)
                else:
                    yield name, begin, member.size, member.size, -1, 0
            # Python's reader takes a damaged header for the end of the archive.
            file.seek(archive.offset)
            rest = file.read(512)
            if len(rest) < 512:
                raise tarfile.ReadError("no mark of its end: it is cut off")
            while rest:
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("a damaged header, or more after its end, such as a second archive")
                rest = file.read(1 << 20)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError("", f"not a whole zip or tar archive ({reason_of(error)})", _REMEDY) from None


def _header(stream: Any, size: int | None) -> tuple[list[int], str, bool]:
    """Shape, type and order of an array of numbers, from an npy or idx header; the array's bytes follow in the stream.

    ``size`` is the size of the file in bytes, or None if it is packed.
    """
    try:
        if stream.peek(3)[:3] == b"\0\0\x08":  # bytes, in MNIST's format
            axes = stream.read(4)[3]
            shape, fortran, dtype = struct.unpack(f">{axes}I", stream.read(4 * axes)), False, np.dtype(np.uint8)
        else:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(stream)
    except (ValueError, TypeError, LookupError, SyntaxError, OverflowError, struct.error) as error:
        raise UserError("", f"not an npy or idx array, or a damaged one ({error})", "make or fetch it again") from None
    if not fits(shape, SHAPE):
        raise UserError("", "damaged: its array has an impossible shape", "make or fetch it again")
    if dtype.kind not in "biuf":
        fault = "Object arrays cannot be loaded" if dtype.hasobject else "its array does not hold plain numbers"
        raise UserError("", fault, "save an array of numbers")
    nbytes = math.prod(shape) * dtype.itemsize
    if size is not None and stream.tell() + nbytes != size:
        have = size - stream.tell()
        raise UserError("", f"has {have:,} bytes for an array of {nbytes:,}", "make or fetch it again")
    return [*shape], dtype.str, fortran


def read_array(content: bytes) -> np.ndarray:
    """An npy file of numbers."""
    stream = io.BufferedReader(io.BytesIO(content))
    shape, dtype, fortran = _header(stream, len(content))
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def _checked_array(array: np.ndarray) -> np.ndarray:
    if array.ndim != 3 or array.dtype not in (np.uint8, np.float32) or not array.size:
        actual = f"{'×'.join(map(str, array.shape))} {array.dtype}"
        raise UserError("", f"npy must be (C, H, W) of uint8 or float32, got {actual}")
    if array.dtype != np.uint8 and not np.isfinite(array).all():
        raise UserError("", "holds NaN or infinities", "encode the image again")
    return array
