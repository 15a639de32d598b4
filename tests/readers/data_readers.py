"""Data sets, images and labels: what a stranger may hand over as data, samples or statistics."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from eval.measuring.reference_files import read_batch, read_moments
from eval.measuring.stores import open_images
from sida.data import load_dataset
from sida.data.load import check_dataset, count_labels
from sida.data.pictures import open_picture
from sida.data.prepare import PrepareConfig, prepare, read_cifar10
from tests.data.test_archive import members, npy, pictures, png, tar_of, write_zip
from tests.data.test_prepare import cifar_batch
from tests.readers import bombs
from tests.readers.changes import JSON_BOMBS, MOST_BYTES, Change, bomb, edited, json_text, tokens, zip_members
from tests.readers.checkpoint_readers import opcodes
from tests.readers.frame import Reader

#: Words of npy headers.
HEADERS = tokens(
    b"|u1", b"|O8", b"|V9", b"<f4", b">f4", b"<i8", b"<U9", b"True ", b"False", b"(1, ", b"(9, ", b"(-1,",
    b"(9999999999, ", b"shape", b"descr", b"fortran_order", b"\x01\x00", b"\x02\x00", b"\x03\x00",
)  # fmt: skip


def write_archives(folder: Path) -> None:
    """Pixels with classes, latents, and vectors as labels."""
    write_zip(folder / "pixels.zip", members(pictures(3), [0, 1, 2]))
    write_zip(folder / "packed.zip", members(pictures(2), [[0.5, 1], [1, 0]]), zipfile.ZIP_DEFLATED)
    latents = np.linspace(-1, 1, 2 * 8 * 4 * 4, dtype=np.float32).reshape(2, 8, 4, 4)
    write_zip(folder / "latents.zip", {f"{index}.npy": npy(latent) for index, latent in enumerate(latents)})


def read_archive(path: Path, folder: Path) -> None:
    """As ``sida data check`` and ``sida data labels``."""
    check_dataset(load_dataset({"name": "x", "kind": "zip", "path": str(path)}), workers=1)


def write_pictures(folder: Path) -> None:
    """One of each format."""
    for suffix in ("png", "jpg", "bmp", "gif", "tif", "ppm", "webp"):
        Image.fromarray(pictures(1)[0]).save(folder / f"x.{suffix}")
    (folder / "grey.png").write_bytes(png(pictures(1, channels=1)[0]))


def write_arrays(folder: Path) -> None:
    """Images as people save them, with and without classes."""
    images = pictures(3)
    (folder / "x.npy").write_bytes(npy(images))
    np.savez(folder / "x.npz", images, np.arange(3))
    np.savez_compressed(folder / "y.npz", images=images, labels=np.arange(3, dtype=np.int32))
    (folder / "grey.npy").write_bytes(npy(images[..., 0]))


def read_array(path: Path, folder: Path) -> None:
    """As ``sida-eval score`` reads samples."""
    store = open_images(path)
    for begin in range(0, min(store.count, 64), 16):
        store.read(begin, min(begin + 16, store.count))


def write_statistics(folder: Path) -> None:
    """Published statistics, and a batch of images."""
    np.savez(folder / "mu.npz", mu=np.arange(4.0), sigma=np.eye(4))
    np.savez(folder / "images.npz", arr_0=pictures(3), mu=np.zeros(2))


def read_statistics(path: Path, folder: Path) -> None:
    """Both ways in which such files are read."""
    (read_moments if path.name == "mu.npz" else read_batch)(path)


def write_tars(folder: Path) -> None:
    """A plain tar, one with long names and a tar in it, and a packed one."""
    images = [png(image) for image in pictures(3)]
    inner = tar_of({"a.png": images[0], "b.png": images[1]})
    (folder / "plain.tar").write_bytes(tar_of({"a/x.png": images[0], "b/y.png": images[1]}))
    (folder / "long.tar").write_bytes(tar_of({"n" * 150 + "/x.png": images[2], "n01.tar": inner}))
    (folder / "packed.tar.gz").write_bytes(tar_of({"x.png": images[0], "y.png": images[1]}, "w:gz"))


def read_tar(path: Path, folder: Path) -> None:
    """As samples; plain ones also as pictures to prepare."""
    if path.suffix == ".tar":
        count_labels(path, "x") if path.name == "plain.tar" else None
        prepare(PrepareConfig(source=str(path), out=str(folder / "o.zip"), labels="none", workers=1))
    else:
        store = open_images(path)
        store.read(0, store.count)


def write_cifar(folder: Path) -> None:
    """CIFAR-10's five batches of one picture each, plain and packed."""
    batches = {f"cifar-10-batches-py/data_batch_{number}": cifar_batch(1, number)[0] for number in range(1, 6)}
    (folder / "plain.tar").write_bytes(tar_of(batches))
    (folder / "cifar.tar.gz").write_bytes(tar_of(batches, "w:gz"))


def tar_members(inner: Change) -> Change:
    """A change for tar archives: ``inner`` changes one member; the archive is plain then."""

    def change(data: bytes, rng: Random) -> bytes:
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                found, left = {}, MOST_BYTES
                for member in archive:
                    if (left := left - abs(member.size)) < 0:
                        raise ValueError("an attack already")
                    if member.isreg():
                        found[member.name] = archive.extractfile(member)
                members = {name: stream.read() for name, stream in found.items() if stream}
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise ValueError("no tar archive") from error
        if not members:
            raise ValueError("no members")
        name = rng.choice(sorted(members))
        return tar_of({**members, name: inner(members[name], rng)})

    return change


def headers(data: bytes, rng: Random) -> bytes:
    """A tar's header with a field overwritten, and the checksum that goes with it."""
    place = rng.randrange(0, max(len(data) - 511, 1), 512)
    header = bytearray(data[place : place + 512])
    if len(header) < 512:
        raise ValueError("no header")
    field, width = rng.choice(((0, 100), (124, 12), (124, 12), (156, 1), (257, 8), (345, 155)))
    fill = rng.choice(
        (b"-1\0", b"7" * 12, b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"0\0", b"x", b"L", b"g", b"S", b"../")
    )
    header[field : field + width] = fill[:width].ljust(width, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:place] + bytes(header) + data[place + 512 :]


PICTURE_BOMBS = bomb(
    lambda rng: bombs.gif(rng.choice((2, 300, 4000)), comment=rng.choice((0, 1000, 1 << 20))),
    lambda rng: bombs.tiff(rng.choice((2, 500)), rng.choice((1, 1000, 400_000)), rng.choice("<>")),
    lambda rng: bombs.jpeg(rng.choice((1, 80, 300))),
    lambda rng: bombs.ppm(rng.choice((3, 10_000, 3 << 20)), rng.choice((0, 2000, 5 << 20)), rng.choice((8, 4096))),
    lambda rng: bombs.png(rng.choice((1, 900, 20_000))),
    lambda rng: bombs.bmp(rng.choice((100, 1 << 20, 5 << 20))),
)
ZIP_BOMBS = bomb(lambda rng: bombs.overlapping_zip(rng.choice((100, 1 << 20)), rng.choice((1, 3, 300))))
NPZ_BOMBS = bomb(
    lambda rng: bombs.overlapping_zip(size := rng.choice((100, 1 << 20)), rng.choice((1, 300)), ".npy", npy_head(size))
)
TAR_BOMBS = bomb(lambda rng: packed(rng, "{:06d}.png"))
CIFAR_BOMBS = bomb(lambda rng: packed(rng, "data_batch_{}"))
_INNER: Change = lambda data, rng: rng.choice((edited, HEADERS))(data, rng)
_LABELS: Change = lambda data, rng: rng.choice((json_text, json_text, JSON_BOMBS))(data, rng)
_ZIP = (zip_members(_LABELS), zip_members(_INNER), HEADERS, zip_members(PICTURE_BOMBS), ZIP_BOMBS)
_NPZ = (HEADERS, HEADERS, zip_members(_INNER), zip_members(_INNER), NPZ_BOMBS)


def packed(rng: Random, name: str) -> bytes:
    """A packed tar of nothing."""
    size, count = rng.choice((100, 1 << 20, 1 << 30)), rng.choice((1, 5, 50))
    return bombs.packed_tar(rng.choice(("gz", "bz2")), size, count, name)


def npy_head(size: int) -> bytes:
    """The head of an array of so many bytes."""
    return npy(np.zeros(size, np.uint8))[:-size]


def write_sources(folder: Path) -> None:
    """Pictures of the size that the samples have."""
    write_zip(folder / "pixels.zip", members(pictures(3), [0, 1, 2]))


def sums(rng: Random) -> bytes:
    """A zip of equal pictures that are small each, in bytes or in pixels."""
    side = rng.choice((8, 512, 2048, 8192))
    made = ((".png", bombs.flat_png(side)), (".webp", bombs.flat_webp(side)), (".jpg", bombs.large_jpeg(side, 20)))
    suffix, picture = rng.choice(made)
    return bombs.zip_of_equals(picture, rng.choice((1, 5, 40)) if side < 2048 else rng.choice((100, 400)), suffix)


def read_sources(path: Path, folder: Path) -> None:
    """As pictures to prepare, and as samples of a protocol of 8×8."""
    prepare(PrepareConfig(source=str(path), out=str(folder / "o.zip"), labels="none", workers=1))
    store = open_images(path)
    store.side = 8
    store.read(0, min(store.count, 64))


def read_picture(path: Path, folder: Path) -> None:
    """As it is opened everywhere."""
    open_picture(path.read_bytes(), path.name)


def read_cifar(path: Path, folder: Path) -> None:
    """All pictures."""
    list(read_cifar10(str(path)))


CIFAR = (headers, tar_members(opcodes), tar_members(opcodes), CIFAR_BOMBS)
READERS = (
    Reader(
        "pictures of an archive, in sum", write_sources, read_sources, (zip_members(_INNER), bomb(sums)),
        0.8, seconds=30, megabytes=1500, cases=6,
    ),
    Reader("data set (zip)", write_archives, read_archive, _ZIP),
    Reader("picture", write_pictures, read_picture, (PICTURE_BOMBS,), 0.1, megabytes=400),
    Reader("images (npy, npz)", write_arrays, read_array, _NPZ),
    Reader("statistics (npz)", write_statistics, read_statistics, _NPZ),
    Reader("tar of pictures", write_tars, read_tar, (headers, headers, headers, TAR_BOMBS), cases=50),
    Reader("archive of CIFAR-10", write_cifar, read_cifar, CIFAR, cases=50),
)  # fmt: skip
