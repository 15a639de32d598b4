"""Readers of archives, labels and pictures of unknown origin for the child process (:mod:`sida.files.convert`).

The child has limits of time and memory; this module adds checks for wrong data that libraries accept silently. A reader
gets a file with members, their names and locations (:mod:`sida.data.members`). Its caller is
:class:`sida.data.archive.Files`.
"""

from __future__ import annotations

import array
import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sida.data.label_files import MAX_CLASSES, WITHOUT_LABELS, parse_labels, relative_name, same_name
from sida.data.members import Location, unpacked
from sida.data.pictures import (
    GREY,
    ONE_SIZE,
    as_shown,
    checked_array,
    decode_picture,
    encode_png,
    mode_words,
    open_picture,
    to_square,
)
from sida.errors import UserError, counted, errors_at, reason_of
from sida.files.child import Writer
from sida.files.content import placeholder_in
from sida.files.foreign import read_npy

#: Name and location of each member; without a location the file itself is the only one.
Members = Sequence[tuple[str, Location | None]]
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_PIECE = 4 << 20
_REMEDY = "make or fetch it again, or give pictures in a folder, zip, tar, npz or npy"
_NO_LINKS = "pack the files themselves (tar --dereference --hard-dereference, zip without -y)"


# Archives


def index(file: BinaryIO, out: Writer) -> None:
    """Writes the ``names`` of an archive's members, sorted, its ``folders``, and the ``locations`` of the members."""
    start = os.pread(file.fileno(), 2, 0)
    # Five numbers a member: a list of tuples of a million members would take many times the memory.
    names: list[str] = []
    flat = array.array("q")
    folders: list[str] = []
    for name, *location in _zip_members(file, folders) if start == b"PK" else _tar_members(file, folders):
        names.append(name)
        flat.extend(location)
    assert len(flat) == 5 * len(names)
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[index] for index in order]
    for name, after in itertools.pairwise(names):
        if name == after:
            raise UserError(f": {name}", "occurs twice", "make the archive again")
    out.add("locations", np.frombuffer(flat, np.int64).reshape(-1, 5)[order])
    for key, texts in (("names", names), ("folders", sorted({*folders} - {"", "."}))):
        out.stream(key, ["\0".join(texts).encode(errors="surrogateescape")])


def unpack(file: BinaryIO, out: Writer) -> None:
    """Writes the ``bytes`` of a packed archive."""

    def pieces() -> Iterator[bytes]:
        packed = _PACKED[os.pread(file.fileno(), 2, 0)](file)
        try:
            while piece := packed.read(_PIECE):
                yield piece
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UserError("", f"is not a complete packed archive ({error})", "make or fetch it again") from None

    out.stream("bytes", pieces())


def contents(file: BinaryIO, out: Writer, members: Members) -> list[int]:
    """Writes the bytes of members, one after the other, as ``contents``; returns their sizes."""
    sizes: list[int] = []

    def pieces() -> Iterator[bytes]:
        for member in members:
            with _content(file, member) as content:
                sizes.append(len(content))
                yield content

    out.stream("contents", pieces())
    return sizes


# Pictures


def images(
    file: BinaryIO, out: Writer, members: Members, shape: Any, kind: str | None, only_pictures: bool
) -> dict[str, Any]:
    """Writes ``images`` ``(n, C, H, W)``, uint8, or float32 of arrays.

    ``shape`` and ``kind`` are the expected ones; None takes them from the first image. The first image that differs
    ends the part, and its shape and kind are returned as ``differing``; if it is a picture it is not decoded.

    Pictures that lose values are refused, with ``only_pictures`` arrays as well; ``noted`` of the value
    has the kind of each image that measuring notes (:data:`sida.data.pictures.NOTED`).
    """
    found: list[np.ndarray] = []
    noted: list[str | None] = []
    differing: list[Any] | None = None
    for member in members:
        with _content(file, member) as content:
            if content.startswith(np.lib.format.MAGIC_PREFIX) and not only_pictures:
                image, loss = checked_array(read_npy(content)), None
            else:
                image, loss = decode_picture(content, None if shape is None else (shape[2], shape[1]))
        layout: list[Any] = [list(image.shape), image.dtype.str]
        if shape is None:
            shape, kind = layout
        if layout != [shape, kind]:
            differing = layout
            break
        found.append(image)
        noted.append(loss)
    if found:
        parts = (np.ascontiguousarray(image).reshape(-1).view(np.uint8).data for image in found)
        out.stream("images", parts, kind, (len(found), *shape))
    return {"shape": shape, "kind": kind, "differing": differing, "noted": noted}


def headers(file: BinaryIO, out: Writer, members: Members) -> list[list[int]]:
    """Width, height and whether there are colours, for each picture; zeros for damaged ones, which fail later."""
    value = [[0, 0, 0] for _ in members]
    for facts, member in zip(value, members):
        with contextlib.suppress(UserError), _content(file, member) as content:
            picture = open_picture(content, load=False)
            facts[:] = *picture.size, int(picture.mode not in GREY)
    return value


def squares(
    file: BinaryIO, out: Writer, members: Members, transform: str, resolution: int | None, side: int, channels: int
) -> list[list[Any]]:
    """Writes ``squares`` uint8 ``(n, side, side, channels)`` of the pictures without a fault.

    Returns the description of the mode of each picture, and whether it was changed and squeezed; or a fault. A square
    of another side than ``side`` is a fault; unless ``side`` is 0, then no square is written.
    """
    value: list[list[Any]] = []
    parts: list[bytes] = []
    for member in members:
        try:
            with _content(file, member) as content:
                picture = open_picture(content, complete=True)
                result = to_square(as_shown(picture), transform, resolution, channels)
                if side not in (0, result.width):
                    raise UserError("", f"is {result.width}×{result.width}, the first picture {side}×{side}", ONE_SIZE)
            parts += [result.tobytes()] if side else []
            squeezed = transform == "none" and picture.width != picture.height
            value.append([mode_words(picture), result.size != picture.size, squeezed])
        except UserError as error:
            value.append([error.where, error.fault, error.remedy])
    out.stream("squares", parts, np.uint8, (len(parts), side, side, channels))
    return value


def rgb(file: BinaryIO, out: Writer) -> None:
    """Writes ``pixels`` ``(H, W, 3)`` of one picture."""
    out.add("pixels", np.asarray(open_picture(file.read()).convert("RGB")))


# Labels and facts


def labels(
    file: BinaryIO, out: Writer, members: Members, names: Sequence[str] | None, others: Sequence[str] = ()
) -> None:
    """Writes ``labels``, classes int64 of the wanted pictures (None: of all) from a file of labels, if it has any.

    ``others`` are further files, which may have labels, too.
    """
    with _content(file, members[0]) as content:
        found = parse_labels(members[0][0], content)
        if found is None:
            return
        for name in names or ():
            if found.get(same_name(name)) is None:
                raise UserError("", f"has no label for {name}", f"add it, or {WITHOUT_LABELS}")
        there = {same_name(name) for name in (*(names or found), *others)}
        if missing := sorted(found.keys() - there):
            fault = f"has labels of {counted(len(missing), 'picture')} that {'are' if missing[1:] else 'is'} missing"
            remedy = f"copy or fetch them again, or remove their labels, or {WITHOUT_LABELS}"
            raise UserError("", f"{fault}, such as {missing[0]}", remedy)
        picked = [*found.values()] if names is None else [found[same_name(name)] for name in names]
        # JSON's true is True, which is an int.
        if not all(type(label) is int and 0 <= label < MAX_CLASSES for label in picked):
            fault = f"a label is not a whole number from 0 to {MAX_CLASSES - 1:,}"
            raise UserError("", fault, f"number classes 0, 1, 2, …, or {WITHOUT_LABELS}")
        out.add("labels", np.array(picked, np.int64))


def latents(file: BinaryIO, out: Writer, members: Members) -> dict[str, str]:
    """Kind, spread and encoder of latents in a ``latents.json``."""
    with _content(file, members[0]) as content:
        try:
            facts = json.loads(content)
            further = {name: str(facts[name]) for name in ("spread", "encoder") if name in facts}
            return {"kind": str(facts["kind"]), **further}
        except (ValueError, KeyError, TypeError):
            raise UserError("", "must be JSON with the key 'kind'", "encode the pixels again") from None


@contextlib.contextmanager
def _content(file: BinaryIO, member: tuple[str, Location | None]) -> Iterator[bytes]:
    """Content of a member; errors here and in the block get the member's name, if it has one."""
    name, location = member
    with errors_at(f": {name}" if name else ""):
        try:
            yield file.read() if location is None else unpacked(file.fileno(), *location)
        except MemoryError:
            raise UserError("", "needs more memory than one picture may take", "remove it or make it smaller") from None


def _zip_members(file: BinaryIO, folders: list[str]) -> Iterator[tuple[Any, ...]]:
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
            folders.append(relative_name(name).rstrip("/"))
        elif stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f": {name}", "is a link", _NO_LINKS)
        else:
            sizes = info.compress_size, info.file_size
            yield relative_name(name), info.header_offset, *sizes, info.CRC, info.compress_type


def _tar_members(
    file: Any, folders: list[str], prefix: str = "", base: int = 0, levels: int = 3
) -> Iterator[tuple[Any, ...]]:
    """Regular files of a tar archive, and of the tars in it (ImageNet is a tar of one tar per class).

    Names begin with ``prefix``; folders are added to their list.
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
                    folders.append(name.rstrip("/"))
                elif member.islnk() or member.issym():
                    raise UserError(f": {name}", "is a link", _NO_LINKS)
                elif not member.isreg():
                    continue  # pipes and devices
                elif name.endswith(".tar") and levels:
                    folders.append(name.removesuffix(".tar"))
                    inner = f"{name.removesuffix('.tar')}/"
                    yield from _tar_members(archive.extractfile(member), folders, inner, begin, levels - 1)
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


# The child can import nothing later, so each format is written and read once here.
Image.preinit()
_wide = [f"utf-{bits}{order}" for bits in (16, 32) for order in ("", "-le", "-be")]
for _name in ("cp437", "ascii", "latin-1", "idna", "utf-8", "utf-8-sig", *_wide):
    "".encode(_name)
for _mode, _form in (("L", "PNG"), ("RGB", "TIFF"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "JPEG"), ("L", "PPM")):
    _stream = io.BytesIO()
    Image.new(_mode, (8, 8)).save(_stream, _form)
    _square = to_square(as_shown(open_picture(_stream.getvalue())), "center-crop-dhariwal", 4, 3)
    encode_png(_square.resize((3, 3), Image.Resampling.LANCZOS))
placeholder_in(b"two\nlines")
