"""Archives, folders, arrays and pictures that strangers made: read, or refused in one line, soon and in little room."""

import json
import os
import socket
import struct
import unicodedata
import zipfile
import zlib

import numpy as np
import pytest

from eval.measuring.reference_files import read_batch, read_moments
from eval.measuring.stores import open_images
from sida.data import load_dataset
from sida.data.load import check_dataset
from sida.data.prepare import PrepareConfig, prepare
from sida.files.archives import FolderFiles, open_files
from tests.data.test_archive import members, npy, pictures, png, tar_of, write_folder, write_zip
from tests.readers import bombs
from tests.readers.frame import command, refused

GENUINE = members(pictures(3), [0, 1, 2])


def opened(path):
    kind = "folder" if os.path.isdir(path) else "zip"
    return load_dataset({"name": "x", "kind": kind, "path": str(path)})


def both(path):
    """Reads all that a data set and that a score would read."""
    dataset = opened(path)
    dataset.images(range(len(dataset)))


def scored(path):
    store = open_images(path)
    store.read(0, store.count)
    return store


def labelled(labels):
    """A change of a genuine archive: other labels, as they are or as a list of classes."""
    text = labels if isinstance(labels, bytes) else members(pictures(3), labels)["dataset.json"]
    content = {**GENUINE, "dataset.json": text}
    return lambda path: write_zip(path, content, zipfile.ZIP_DEFLATED)


def replaced(old, new):
    """A change behind the writer's back."""

    def change(path):
        write_zip(path, GENUINE)
        path.write_bytes(path.read_bytes().replace(old, new))
        return path

    return change


@pytest.mark.parametrize("reader", [both, scored])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"), "encrypted"),
        (replaced(b"img00000001.png", b"img00000000.png"), "occurs twice"),
        (replaced(b'{"labels"', b'{"lebals"'), "damaged"),
        (labelled(b'{"labels": ' + b"[" * 200_000), "must be JSON"),
        (labelled([10**9, 0, 0]), "is beyond 100,000"),
        (labelled([[float("nan")], [1], [2]]), "must all be"),
        (labelled([None, 0, 1]), "no label for"),
        (labelled(b'{"labels": [["00000/img00000000.png", 0], ["00000/img00000000.png", 1]]}'), "two labels for"),
        (labelled(b" " * (2 << 20)), "2,097,152 bytes for 3 images"),
    ],
)
def test_archives_and_labels_that_cannot_be(tmp_path, reader, change, told):
    assert told in refused(reader, change(tmp_path / "x.zip"))


def claimed(shape, dtype="'|u1'", content=b""):
    """An array with a header as numpy writes it, whatever follows."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


ABSURD = {
    "10^12 images": claimed("(1000000000000, 8, 8, 3)"),
    "10^40 images": claimed("(" + "9" * 40 + ", 8, 8, 3)"),
    "objects": claimed("(3, 8, 8)", "'|O'"),
    "records": npy(np.zeros((3, 8, 8), dtype=[("a", "u1")])),
    "code": claimed("(1,)", "__import__('os').system('touch pwned')"),
    "levels": claimed("(" * 9000),
    "signs": claimed("(" + "-" * 9000 + "1,)"),
    "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100,
    "no type": claimed("(3, 8, 8)", "'|u3'", b"\0" * 600),
    "version 9": b"\x93NUMPY\x09\x00" + b" " * 100,
    "cut": npy(np.zeros((3, 8, 8), np.uint8))[:-1],
    "no pixels": npy(np.zeros((3, 0, 0), np.uint8)),
    "truth": npy(np.zeros((3, 8, 8), bool)),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_arrays(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = ABSURD[name]
    refused(both, write_zip(tmp_path / "x.zip", {"00000/img0.npy": content}))
    (tmp_path / "x.npy").write_bytes(content)
    refused(scored, tmp_path / "x.npy")
    for array in ("arr_0", "mu"):
        npz = write_zip(tmp_path / "x.npz", {f"{array}.npy": content, "sigma.npy": content})
        refused(scored, npz)
        refused(read_batch, npz)
        refused(read_moments, npz)
    assert not (tmp_path / "pwned").exists()


def test_arrays_in_other_layouts_are_read_as_numpy_reads_them(tmp_path):
    latents = np.arange(8 * 4 * 4, dtype=np.float32).reshape(8, 4, 4)
    for array in (latents, np.asfortranarray(latents), latents.astype(np.float16)):
        path = write_zip(tmp_path / "x.zip", {"a.npy": npy(array)})
        assert np.array_equal(opened(path).images([0])[0], latents)
    images = pictures(4)
    np.savez_compressed(tmp_path / "x.npz", images, np.arange(4, dtype=np.uint8))
    store = scored(tmp_path / "x.npz")
    assert store.classes.tolist() == [0, 1, 2, 3]
    assert np.array_equal(store.read(0, 4), images)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (npy(np.array([0, 1, 2**40])), "is not between"),
        (npy(np.array([0, -1, 2])), "is not between"),
        (npy(np.arange(3))[:-3], "not a readable array"),
    ],
)
def test_damaged_label_arrays(tmp_path, labels, told):
    path = write_zip(tmp_path / "x.npz", {"arr_0.npy": npy(pictures(3)), "arr_1.npy": labels})
    assert told in refused(scored, path)


def test_an_array_packed_as_only_nothing_is_packed(tmp_path):
    path = tmp_path / "x.npz"
    write_zip(path, {"arr_0.npy": claimed("(2000, 1000, 1000, 3)")}, zipfile.ZIP_DEFLATED)
    # The size that the archive's directory claims; nothing else is looked at.
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 4_000_000_000)
    path.write_bytes(data)
    for reader in (scored, read_batch):
        assert "claims 4,000,000,000 bytes" in refused(reader, path)
    assert "claims 4000000000 bytes" in refused(both, path.rename(tmp_path / "x.zip"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_and_latents_that_are_no_numbers(tmp_path, value):
    np.savez(tmp_path / "s.npz", mu=np.full(3, value), sigma=np.eye(3))
    assert "NaN or infinities" in refused(read_moments, tmp_path / "s.npz")
    latents = np.zeros((2, 8, 4, 4), np.float32)
    latents[1, 2, 3, 3] = value
    path = write_zip(tmp_path / "x.zip", {f"{i}.npy": npy(latent) for i, latent in enumerate(latents)})
    faults = check_dataset(opened(path))["faults"]
    assert len(faults) == 1
    assert "1.npy: holds NaN or infinities" in faults[0]


@pytest.mark.parametrize("size", [(12_000, 12_000), (2**31 - 1, 2**31 - 1), (0, 0)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_that_claim_to_be_huge(tmp_path, size):
    head = b"IHDR" + struct.pack(">II", *size) + b"\1\0\0\0\0"
    picture = bombs.flat_png(8)
    picture = picture[:12] + head + struct.pack(">I", zlib.crc32(head)) + picture[33:]
    path = write_zip(tmp_path / "x.zip", {"a.png": picture})
    for reader in (both, scored):
        assert "not a readable picture" in refused(reader, path)


def test_a_picture_too_long_for_its_width_is_not_stretched(tmp_path):
    write_folder(tmp_path / "x", {"a.png": png(np.zeros((20_000, 1, 3), np.uint8))})
    config = {"source": str(tmp_path / "x"), "out": str(tmp_path / "o.zip"), "resolution": 512}
    assert "too long for its width" in refused(prepare, PrepareConfig(**config, transform="center-crop-dhariwal"))
    assert not (tmp_path / "o.zip").exists()


def test_long_names_many_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for index in range(200):
            archive.writestr(f"{index}.png", b"")
        archive.writestr("n" * 60_000 + ".png", b"")
    assert "longest name of 60,004 bytes" in refused(both, tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["../../up.png", "/etc/abs.png", "a/../../b.png"])
def test_names_that_lead_elsewhere_are_names_only(tmp_path, name):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    path = write_zip(folder / "x.zip", {name: GENUINE["00000/img00000000.png"]})
    both(path)
    out = folder / "o.zip"
    prepare(PrepareConfig(source=path, out=str(out), labels="none"))
    assert zipfile.ZipFile(out).namelist() == ["00000/img00000000.png", "dataset.json"]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, folder / "x.zip", out])


def test_links_that_lead_back_do_not_multiply_images(tmp_path):
    write_folder(tmp_path / "x", members(pictures(2)))
    os.symlink("..", tmp_path / "x" / "00000" / "back")
    for reader in (both, scored):
        assert "would count twice" in refused(reader, tmp_path / "x")
    (tmp_path / "x" / "00000" / "back").unlink()
    os.symlink("00000", tmp_path / "x" / "same")
    assert "would count twice" in refused(both, tmp_path / "x")
    (tmp_path / "x" / "same").unlink()
    (tmp_path / "x" / "00000").rename(tmp_path / "elsewhere")
    os.symlink("../elsewhere", tmp_path / "x" / "00000")
    assert scored(tmp_path / "x").count == 2


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path):
    write_folder(tmp_path / "x", {"a/0.png": png(pictures(1)[0]), "b/1.png": png(pictures(1)[0])})
    (tmp_path / "x" / "b").chmod(0)
    if os.access(tmp_path / "x" / "b", os.R_OK):
        pytest.skip("this user reads everything")
    assert "would be left out" in refused(FolderFiles, tmp_path / "x")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "dangling", "itself"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind, monkeypatch):
    write_folder(tmp_path / "x", {"b.png": png(pictures(1)[0])})
    # A socket's name is short.
    monkeypatch.chdir(tmp_path / "x")
    if kind == "pipe":
        os.mkfifo("a.png")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("a.png")
    else:
        os.symlink({"device": "/dev/zero", "dangling": "nowhere", "itself": "a.png"}[kind], "a.png")
    for reader in (both, scored, lambda path: prepare(PrepareConfig(source=str(path), out=str(tmp_path / "o.zip")))):
        assert "a.png: " in refused(reader, tmp_path / "x")
    assert not (tmp_path / "o.zip").exists()


def test_names_that_are_no_text_and_names_of_two_forms(tmp_path):
    write_folder(tmp_path / "x", {"a.png": png(pictures(1)[0])})
    (tmp_path / "x" / os.fsdecode(b"\xff.png")).write_bytes(png(pictures(1)[0]))
    assert "is not UTF-8" in refused(both, tmp_path / "x")
    # é as one character in the folder, as two in dataset.json: nothing is labelled by chance.
    one, two = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    labels = json.dumps({"labels": [[two, 1]]}).encode()
    assert "no label for" in refused(
        both, write_folder(tmp_path / "y", {one: png(pictures(1)[0]), "dataset.json": labels})
    )


def test_tars_within_tars_without_end(tmp_path):
    data = b""
    for _ in range(500):
        data = tar_of({"x.tar": data})[: 512 + len(data) + 1024]
    (tmp_path / "x.tar").write_bytes(data)
    assert "tars within each other" in refused(open_files, tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_figure_that_is_no_file_is_not_waited_for(tmp_path, kind):
    (tmp_path / "figures").mkdir()
    place = tmp_path / "figures" / "a.png"
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/null")
    said = refused(command, "sida", "page", tmp_path, "--out", tmp_path / "page.html")
    assert "a.png: is no ordinary file" in said
    assert not (tmp_path / "page.html").exists()
