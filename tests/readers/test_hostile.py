"""A hostile file of every format (huge, endless, deep, of wrong sizes, with code) is one line: soon, in little memory.

Pickles: tests/files/test_pickles.py.
"""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.measuring.reference_files import read_batch, read_moments
from eval.measuring.stores import open_images
from eval.results.sheet import read_runs
from sida.config.settings import load_spec, load_yaml
from sida.data import load_dataset
from sida.data.prepare import PrepareConfig, prepare
from sida.files import fenced
from sida.files.text_files import read_csv
from sida.networks.file import load_network
from tests.data.test_archive import members, npy, pictures, png, tar_of, write_folder, write_zip, zip_of
from tests.refused import refusal, refused


def data(path: Path) -> None:
    """As a data set."""
    kind = "folder" if path.is_dir() else "zip"
    dataset = load_dataset({"name": "x", "kind": kind, "path": str(path)})
    dataset.images(range(len(dataset)))


def score(path: Path) -> None:
    """As samples."""
    store = open_images(path)
    store.read(0, store.count)


def prepared(path: Path) -> None:
    """As pictures to prepare."""
    prepare(PrepareConfig(str(path), str(path.parent / "o.zip"), labels="none"))


def one(name: str, content: bytes) -> bytes:
    """A zip archive of one picture."""
    return zip_of({name: content})


def claimed(shape: str, dtype: str = "'|u1'", content: bytes = b"") -> bytes:
    """An array with a header as numpy writes it, whatever follows."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def jpeg(side: int, scans: int) -> bytes:
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
    made = (struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in
            ((b"IHDR", head), (b"IDAT", body), (b"IEND", b"")))  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


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


def packed_tar(size: int) -> bytes:
    """A packed tar of a member of nothing but zeros."""
    pack = gzip.compress
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


CODE = "__import__('os').system('touch executed')"
PIXELS = members(pictures(3), [0, 1, 2])
#: Name of a file, its content, and its readers.
HOSTILE: dict[str, tuple[str, Callable[[], bytes], tuple[Callable[[Path], object], ...]]] = {
    # pictures
    "jpeg, many scans": ("x.zip", lambda: one("a.jpg", jpeg(8192, 3000)), (score,)),
    "png, huge": ("x.zip", lambda: one("a.png", flat_png(40_000)), (data, score, prepared)),
    "many flat pictures": ("x.zip", lambda: zip_of_equals(flat_png(8192), 60), (prepared,)),
    # archives
    "zip, shared bytes": ("x.zip", lambda: overlapping_zip(64 << 20, 20_000, ".npy"), (data,)),
    "zip, encrypted": ("x.zip", lambda: zip_of(PIXELS).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
                       (data,)),
    "zip, double names": ("x.zip", lambda: zip_of(PIXELS).replace(b"0001.png", b"0000.png"), (data, score, prepared)),
    "tar, packed zeros": ("x.tar.gz", lambda: packed_tar(1 << 28), (score,)),
    "tar, endless": ("x.tar", lambda: endless_tars(500), (prepared,)),
    # labels
    "labels, many": ("x.zip", lambda: zip_of({**PIXELS, "dataset.json": b"[" + b"{}," * 16_000_000 + b"0]"},
                                             zipfile.ZIP_DEFLATED), (data,)),
    "labels, no numbers": ("x.zip", lambda: zip_of(members(pictures(3), [[float("nan")], [1], [2]])), (data, score)),
    # arrays
    "npy, 10^12 images": ("x.npy", lambda: claimed("(1000000000000, 8, 8, 3)"), (score,)),
    "npy, code": ("x.npy", lambda: claimed("(1,)", CODE), (score,)),
    "npy, objects": ("x.npy", lambda: claimed("(3, 8, 8)", "'|O'"), (score,)),
    "npy, bytes after it": ("x.npy", lambda: npy(pictures(3)) + b"\0", (score,)),
    "npz, zeros": ("x.npz", lambda: zip_of({"arr_0.npy": claimed("(6000, 256, 256, 3)", content=bytes(6000 * 196608))},
                                           zipfile.ZIP_DEFLATED, 1), (read_batch,)),
    "npz, no numbers": ("x.npz", lambda: zip_of({"mu.npy": npy(np.full(3, np.nan)), "sigma.npy": npy(np.eye(3))}),
                        (read_moments,)),
    "npz, double names": ("x.npz", lambda: zip_of({"mv.npy": npy(np.ones(3)), "mu.npy": npy(np.zeros(3)),
                          "sigma.npy": npy(np.eye(3))}).replace(b"mv.npy", b"mu.npy"), (read_moments,)),
    # text
    "yaml, code": ("x.yaml", lambda: b"a: !!python/object/apply:os.system ['touch executed']", (load_yaml,)),
    "yaml, many": ("x.yaml", lambda: b"a: [" + b"x," * 1_000_000 + b"]", (load_yaml,)),
    "json, many": ("x.json", lambda: b"[" + b"{}," * 3_000_000 + b"0]", (lambda path: load_spec(str(path)),)),
    "csv, many": ("x.csv", lambda: b"a,b\n" + b",\n" * 2_000_000, (read_csv,)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line(name, tmp_path, monkeypatch):
    if not os.environ.get("FULL_LIMITS"):
        monkeypatch.setattr(fenced, "SECONDS", 2)
    monkeypatch.chdir(tmp_path)
    file, content, readers = HOSTILE[name]
    (tmp_path / file).write_bytes(content())
    for read in readers:
        assert file in refusal(read, tmp_path / file)
    assert os.listdir(tmp_path) == [file]


PIPES = ("pipe", "socket", "device", "dangling", "itself")


@pytest.mark.parametrize("kind", PIPES)
def test_no_pipe_and_no_device_is_waited_for(tmp_path, kind, monkeypatch):
    write_folder(tmp_path / "x", {"b.png": png(pictures(1)[0])})
    monkeypatch.chdir(tmp_path / "x")  # a socket's name is short
    if kind == "pipe":
        os.mkfifo("a.png")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("a.png")
    else:
        os.symlink({"device": "/dev/zero", "dangling": "nowhere", "itself": "a.png"}[kind], "a.png")
    for read in (data, score, prepared):
        assert "a.png: " in refusal(read, tmp_path / "x")
    for read in (load_yaml, read_runs, lambda path: load_spec(str(path)), load_network, read_moments):
        refusal(read, tmp_path / "x/a.png")
    assert not (tmp_path / "o.zip").exists()


def test_a_hole_of_a_terabyte_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(fenced, "SECONDS", 1)
    (tmp_path / "x.tar").write_bytes(tar_of({"0.png": png(pictures(1)[0])}))
    os.truncate(tmp_path / "x.tar", 1 << 40)
    refused("x.tar: takes more than .* processor time", score, tmp_path / "x.tar")


# Wrong data that libraries read in silence


def changed(content: bytes, place: int, new: bytes) -> bytes:
    """A tar whose header at a place has other bytes, with the old checksum."""
    return content[:place] + new + content[place + len(new) :]


TAR = tar_of({f"{index}.png": png(image) for index, image in enumerate(pictures(6))})
HEADERS = [place for place in range(0, len(TAR), 512) if TAR[place + 257 : place + 262] == b"ustar"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed(TAR, HEADERS[3], b"X"), "damaged header"),
        (TAR[: HEADERS[4] + 100], "no mark of its end|unexpected end"),
        (TAR[: HEADERS[4]], "no mark of its end"),
        (TAR + TAR, "more after its end"),
        (tar_of({"a.png": b"x"})[:1024] + tar_of({"a.png": b"x"}), "occurs twice"),
        (changed(tar_of({"a.png": b"x"}), 124, b"\xff" * 12), "bad checksum"),
    ],
)
def test_a_tar_is_read_whole_or_not_at_all(tmp_path, content, told):
    (tmp_path / "x.tar").write_bytes(content)
    refused(told, score, tmp_path / "x.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_whole_tars_are_read_in_the_order_of_names(tmp_path, mode):
    content = {f"{name}.png": png(image) for name, image in zip("cab", pictures(3))}
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({**content, "./d.tar": tar_of({"e.png": png(pictures(1, seed=5)[0])})}, mode))
    store = open_images(path)
    expected = np.stack([pictures(3)[1], pictures(3)[2], pictures(3)[0], pictures(1, seed=5)[0]])
    assert np.array_equal(store.read(0, store.count).transpose(0, 2, 3, 1), expected)
    assert store.name(3) == f"{path}: d/e.png"


def test_latents_that_are_no_numbers(tmp_path):
    latents = np.zeros((2, 8, 4, 4), np.float32)
    latents[1, 2, 3, 3] = np.inf
    path = write_zip(tmp_path / "x.zip", {f"{i}.npy": npy(latent) for i, latent in enumerate(latents)})
    refused("1.npy: holds NaN or infinities", data, Path(path))


@pytest.mark.parametrize("name", ["../../up.png", "/etc/abs.png", "a/../../b.png"])
def test_names_that_lead_elsewhere_are_names_only(tmp_path, name):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    path = Path(write_zip(folder / "x.zip", {name: PIXELS["00000/img00000000.png"]}))
    data(path)
    prepared(path)
    assert zipfile.ZipFile(folder / "o.zip").namelist() == ["00000/img00000000.png", "dataset.json"]
    assert sorted(tmp_path.rglob("*")) == [folder.parent, folder, folder / "o.zip", path]


def test_links_that_lead_back_do_not_multiply_images(tmp_path):
    write_folder(tmp_path / "x", members(pictures(2)))
    os.symlink("..", tmp_path / "x" / "00000" / "back")
    for read in (data, score):
        assert "would count twice" in refusal(read, tmp_path / "x")
    (tmp_path / "x" / "00000" / "back").unlink()
    (tmp_path / "x" / "00000").rename(tmp_path / "elsewhere")
    os.symlink("../elsewhere", tmp_path / "x" / "00000")
    assert open_images(tmp_path / "x").count == 2


def test_arrays_in_other_layouts_are_read_as_numpy_reads_them(tmp_path):
    latents = np.arange(8 * 4 * 4, dtype=np.float32).reshape(8, 4, 4)
    for array in (latents, np.asfortranarray(latents)):
        path = write_zip(tmp_path / "x.zip", {"a.npy": npy(array)})
        assert np.array_equal(load_dataset({"name": "x", "kind": "zip", "path": path}).images([0])[0], latents)
    images = pictures(4)
    np.savez_compressed(tmp_path / "x.npz", images, np.arange(4, dtype=np.uint8))
    store = open_images(tmp_path / "x.npz")
    assert store.classes.tolist() == [0, 1, 2, 3]
    for begin in (2, 0):  # forwards and back
        assert np.array_equal(store.read(begin, 4), images[begin:].transpose(0, 3, 1, 2))
