import io
import json
import shlex
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sida.data import archive, dataset, load_dataset
from sida.eval.measuring.stores import open_images
from sida.files.atomic import sha256_file
from tests.golden.vectors import GOLDEN
from tests.near import assert_near, is_copy, same_integers
from tests.refused import command, refused

GOLDEN_ZIP = GOLDEN / "dataset" / "tiny_rgb_labels.zip"


def png(image, form="PNG", **options) -> bytes:
    """A picture as PNG, or in another format."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form, **options)
    return stream.getvalue()


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def pictures(count=5, size=8, channels=3, seed=0):
    shape = (count, size, size, channels) if channels > 1 else (count, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def members(images, labels=None):
    named = {f"00000/img{i:08d}.png": png(image) for i, image in enumerate(images)}
    pairs = None if labels is None else [[name, label] for name, label in zip(named, labels)]
    return named | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def zip_of(content, method=zipfile.ZIP_STORED, level=None):
    """A zip archive of these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method, compresslevel=level) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


def write_zip(path, content, method=zipfile.ZIP_STORED):
    path.write_bytes(zip_of(content, method))
    return str(path)


def tar_of(content, mode="w"):
    """A tar archive of these members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def write_folder(path, content):
    for name, data in content.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return str(path)


def write_counts(path, name, counts):
    """Writes a file of class counts."""
    path.write_text(json.dumps({"name": name, "images": sum(counts), "counts": counts}))


def open_zip(path, **extra):
    return load_dataset({"name": "t", "kind": "zip", "path": str(path), **extra})


@pytest.mark.parametrize("name", ["tiny_rgb_labels", "tiny_rgb_nolabels"])
@pytest.mark.parametrize("case", ["plain", "xflip", "max7_seed0", "max7_seed5_xflip"])
def test_views_match_the_golden_ones(golden, name, case):
    arrays, info = golden(f"dataset/{name}")
    facts = info[case]
    data = open_zip(GOLDEN / "dataset" / f"{name}.zip", **facts["kwargs"])
    for key in ("label_dim", "num_channels", "resolution"):
        assert getattr(data, key) == facts[key]
    everything = range(facts["length"])
    assert len(data) == len(everything)
    assert is_copy(data.images(everything), arrays[f"{case}/images"])
    assert is_copy(data.labels(everything), arrays[f"{case}/labels"])
    assert same_integers(data.raw_indices, arrays[f"{case}/raw_idx"])
    if case == "plain":
        assert is_copy(data.images(everything), arrays["raw_images_in_archive_order"])
        assert_near(data.network_input(data.images(everything)), arrays["float_batch"])


@pytest.mark.parametrize("channels", [1, 3])
def test_zip_deflated_zip_and_folder_are_alike(tmp_path, channels):
    images = pictures(channels=channels)
    content = members(images, [0, 1, 2, 1, 0])
    stored = open_zip(write_zip(tmp_path / "a.zip", content))
    deflated = open_zip(write_zip(tmp_path / "b.zip", content, zipfile.ZIP_DEFLATED), cache=True)
    folder = load_dataset({"name": "t", "kind": "folder", "path": write_folder(tmp_path / "c", content)})
    expected = images.reshape(5, 8, 8, channels).transpose(0, 3, 1, 2)
    for data in (stored, deflated, folder, deflated):
        assert is_copy(data.images([4, 0, 2]), expected[[4, 0, 2]])
        assert data.labels([2]).tolist() == [[0, 0, 1]]
        assert data.class_indices.tolist() == [0, 1, 2, 1, 0]
    assert stored.sha256 == sha256_file(tmp_path / "a.zip")
    assert folder.sha256 != stored.sha256


def test_an_archive_of_ours_needs_no_child(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "convert", None)
    images, path = pictures(5), write_zip(tmp_path / "a.zip", members(pictures(5)))
    store = open_images(path, labels=False)
    assert is_copy(store.read(0, 2).transpose(0, 2, 3, 1), images[:2])
    assert store.read(2, 5).strides == (192, 64, 8, 1)
    assert is_copy(open_zip(path, labels=False).images([3, 1])[0], images[3].transpose(2, 0, 1))


def test_cached_images_are_read_once(tmp_path):
    images, path = pictures(4), tmp_path / "a.zip"
    write_zip(path, members(images))
    data, expected = open_zip(path, cache=True), images.transpose(0, 3, 1, 2)
    assert is_copy(data.images(range(4)), expected)
    path.write_bytes(bytes(path.stat().st_size))
    assert is_copy(data.images([3, 1]), expected[[3, 1]])


@pytest.mark.parametrize(("room", "parts"), [(1, [1] * 5), (2.5, [2, 2, 1]), (9, [5])])
def test_images_are_cached_in_parts_of_the_room_for_them(tmp_path, monkeypatch, room, parts):
    images = pictures(5)
    data = open_zip(write_zip(tmp_path / "a.zip", members(images)), cache=True)
    read, sizes = dataset.ImageArchive._read, []
    monkeypatch.setattr(dataset, "_READ_BYTES", int(room * images[0].nbytes) - (room == 1))
    monkeypatch.setattr(dataset.ImageArchive, "_read", lambda self, part: sizes.append(len(part)) or read(self, part))
    assert is_copy(data.images(range(5)), images.transpose(0, 3, 1, 2))
    assert sizes == parts


@pytest.mark.parametrize("cache", [False, True])
def test_images_of_others_are_converted_once(tmp_path, monkeypatch, cache):
    images = pictures(6)
    data = open_zip(write_zip(tmp_path / "a.zip", members(images), zipfile.ZIP_DEFLATED), cache=cache, max_size=5)
    expected = images.transpose(0, 3, 1, 2)[data.raw_indices]
    for index in range(2):
        assert is_copy(data.images([index])[0], expected[index])
    monkeypatch.setattr(archive, "convert", None)
    assert is_copy(data.images(range(5)), expected)
    monkeypatch.undo()
    data = open_zip(tmp_path / "a.zip")
    data.images([0])
    monkeypatch.setattr(dataset, "_MOST_CONVERTED", 1000)
    refused(r"a.zip: has .* GB of images.*sida data prepare", data.images, [1])


def test_labels_that_are_left_out_are_not_read(tmp_path):
    content = members(pictures(2)) | {"dataset.json": b"broken"}
    assert open_zip(write_zip(tmp_path / "a.zip", content), labels=False).label_dim == 0


def test_threads_read_the_same():
    data = open_zip(GOLDEN_ZIP)
    expected = data.images(range(12))
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: data.images([i % 12]), range(40)))
    assert all(is_copy(row[0], expected[i % 12]) for i, row in enumerate(rows))


def test_a_local_header_with_a_long_extra_field_is_read(tmp_path):
    info = zipfile.ZipInfo("img.png")
    info.extra = b"\x99\x99" + (1000).to_bytes(2, "little") + bytes(1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, png(pictures(1)[0]))
    assert is_copy(open_zip(tmp_path / "a.zip").images([0])[0], pictures(1)[0].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("changed", "extra", "message"),
    [
        ({"dataset.json": b"{"}, {}, "dataset.json: must be JSON with the key 'labels'"),
        (members(pictures(), [0, 1, -2, 0, 0]), {}, "dataset.json: .*whole number"),
        ({"00000/img00000000.png": png(pictures(1)[0][:4])}, {}, "is 8×4; images must be square"),
        ({}, {"num_images": 50_000}, "num_images: .* has 5, the spec says 50000"),
    ],
)
def test_faults_found_at_opening_are_one_line_errors(tmp_path, changed, extra, message):
    path = write_zip(tmp_path / "a.zip", members(pictures()) | changed)
    assert path in str(refused(message, open_zip, path, **extra))


def test_faults_of_single_images_name_the_image(tmp_path):
    for content, message in (
        (png(pictures(1, size=16)[0]), "is 3×16×16 uint8, but 00000/img00000000.png is 3×8×8"),
        (npy(np.zeros((8, 8), np.float32)), r"npy must be \(C, H, W\)"),
    ):
        data = open_zip(write_zip(tmp_path / "a.zip", members(pictures()) | {"00000/img00000002.png": content}))
        assert data.images([0, 1, 3, 4]).shape == (4, 3, 8, 8)
        refused(f"img00000002.png: .*{message}", data.images, [1, 2])


def test_an_array_in_the_place_of_an_archive_is_prepared_by_the_command_that_is_told(tmp_path):
    np.savez(tmp_path / "two words.npz", pictures())
    error = refused("is arrays, not an archive", command, "data", "check", tmp_path / "two words.npz")
    told = shlex.split(str(error).partition("make one of it: sida ")[2].replace("ARCHIVE", str(tmp_path / "a")))
    command(*told)
    assert "5 images 8×8×3" in command("data", "check", tmp_path / "a.zip")
