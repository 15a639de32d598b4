"""Sources as people have them: labels, folders that are no classes, formats of pictures, arrays, MNIST's format."""

import gzip
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from eval.measuring.stores import open_images
from sida.data.pictures import FORMATS, PICTURES, open_picture
from sida.data.prepare import PrepareConfig, prepare, summary
from tests.data.test_archive import write_folder, write_zip
from tests.refused import refused

NOISE = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)


def png(index=0, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(NOISE[index]).save(stream, "PNG", **options)
    return stream.getvalue()


def packed(path, names) -> str:
    return write_zip(path, names if isinstance(names, dict) else {name: png(i) for i, name in enumerate(names)})


def made(tmp_path, source, **settings):
    """Labels and facts of a prepared archive."""
    facts = prepare(PrepareConfig(str(source), str(tmp_path / "out.zip"), **settings))
    labels = json.loads(zipfile.ZipFile(tmp_path / "out.zip").read("dataset.json"))["labels"]
    return labels and [label for _, label in labels], facts


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["all/cat/0.png", "all/dog/0.png"], [0, 1]),
        (["__MACOSX/a/._0.png", "a/0.png", "b/.0.png", "b/0.png"], [0, 1]),
        (["10/a.png", "2/a.png", "1/a.png"], [0, 2, 1]),  # in the order of names: 1, 10, 2
        (["00000/a.png", "00001/b.png"], None),
        (["train/a/0.png", "train/b/0.png", "val/b/0.png"], [0, 1]),
        (["class10/a.png", "class9/a.png"], [1, 0]),
        (["@eaDir/a/0.png", "a/0.png", "a/grid.png", "b/0.png", "b/fakes000200.png"], [0, 1]),
    ],
)
def test_folders_become_classes_where_they_are_classes(names, labels, tmp_path):
    found, facts = made(tmp_path, packed(tmp_path / "in.zip", names))
    assert found == labels
    for rank, name in enumerate(facts.get("class_names") or []):
        assert f"{rank} = {name}" in summary(facts)


@pytest.mark.parametrize(
    ("names", "settings", "fault"),
    [
        (["a/0.png", "b/0.png", "0.png"], {}, "--labels"),
        (["train/a.png", "training/b.png", "test/c.png"], {}, "--source"),
        (["a/0.png", "a/1.png", "b/0.png"], {"max_images": 2}, "--max-images"),
        (["a/0.png", "a/0.cls", "a/1.png"], {}, "--labels none"),
        (["train/a.png", "test/b.png", "extra/c.png"], {}, "--labels"),  # parts, and no classes
        (["00000/0.png", "00001/0.png"], {}, "--labels"),  # a tool counts on
        (["in/0.png", "meta/dataset.json"], {}, "meta/"),
    ],
)
def test_doubtful_classes_are_refused(names, settings, fault, tmp_path):
    source = packed(tmp_path / "in.zip", names)
    refused(fault, prepare, PrepareConfig(source, str(tmp_path / "out.zip"), **settings))
    assert not (tmp_path / "out.zip").exists()


def test_labels_lie_in_the_folder_that_holds_everything(tmp_path):
    labels = {"labels": [["00000/img00000000.png", 1], ["00000/img00000001.png", 0]]}
    names = {f"mine/00000/img0000000{index}.png": png(index) for index in range(2)}
    source = packed(tmp_path / "in.zip", names | {"mine/dataset.json": json.dumps(labels)})
    assert made(tmp_path, source)[0] == [1, 0]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_is_stored_as_a_viewer_shows_it(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    made(tmp_path, packed(tmp_path / "in.zip", {"0.png": png(exif=exif)}))
    stored = np.asarray(Image.open(io.BytesIO(zipfile.ZipFile(tmp_path / "out.zip").read("00000/img00000000.png"))))
    turned = {2: NOISE[0][:, ::-1], 3: NOISE[0][::-1, ::-1], 4: NOISE[0][::-1], 5: NOISE[0].transpose(1, 0, 2)}
    turned |= {6: np.rot90(NOISE[0], -1), 7: np.rot90(NOISE[0], 2).transpose(1, 0, 2), 8: np.rot90(NOISE[0])}
    assert (stored == turned[orientation]).all()


def test_transparency_of_a_palette_lies_on_white_and_frames_are_refused(tmp_path):
    stream, picture = io.BytesIO(), Image.new("P", (8, 8), 1)
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.save(stream, "PNG", transparency=1)
    _, facts = made(tmp_path, packed(tmp_path / "in.zip", {"0.png": stream.getvalue()}))
    stored = Image.open(io.BytesIO(zipfile.ZipFile(tmp_path / "out.zip").read("00000/img00000000.png")))
    assert np.asarray(stored).min() == 255
    assert "white" in summary(facts)
    frames, stream = [Image.fromarray(image) for image in NOISE[:2]], io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    source = packed(tmp_path / "gif.zip", {"0.gif": stream.getvalue()})
    refused("several frames", prepare, PrepareConfig(source, str(tmp_path / "out.zip")))


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_files_of_mnist_s_format(pack, tmp_path):
    images, labels = NOISE[..., 0], np.arange(64, dtype=np.uint8) % 10
    end = ".gz" if pack is gzip.compress else ""
    for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / f"t10k-{stem}-ubyte{end}").write_bytes(pack(head + array.tobytes()))
    found, facts = made(tmp_path, tmp_path, subset="test", channels=1)
    assert (found, facts["images"], facts["resolution"]) == (labels.tolist(), 64, 8)
    stored = Image.open(io.BytesIO(zipfile.ZipFile(tmp_path / "out.zip").read("00000/img00000005.png")))
    assert (np.asarray(stored) == images[5]).all()
    path = tmp_path / f"t10k-images-idx3-ubyte{end}"
    path.write_bytes(pack(b"\0\0\x08\3" + struct.pack(">3I", 64, 8, 8) + b"x"))
    refused("fetch it again", prepare, PrepareConfig(str(path), str(tmp_path / "out.zip")))


def test_arrays_are_sources_and_parquet_is_refused_by_its_name(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=NOISE, arr_1=np.arange(64) % 4)
    assert made(tmp_path, tmp_path / "a.npz")[0] == [index % 4 for index in range(64)]
    np.save(tmp_path / "a.npy", NOISE.transpose(0, 3, 1, 2))
    found, facts = made(tmp_path, tmp_path / "a.npy", resolution=4)
    assert (found, facts["resolution"], facts["resized"]) == (None, 4, 64)
    refused("--max-images", made, tmp_path, tmp_path / "a.npz", max_images=3)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.parquet", b"PAR1", "Parquet"),
        ("data.bin", b"\x89HDF\r\n", "HDF5"),
        ("net.safetensors", b"\x10" + bytes(7), "a network"),
        ("folder/train-0.arrow", b"ARROW1", "Arrow"),
        ("shards/0000.tar", b"", "holds archives"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\1\3", "holds classes"),
    ],
)
def test_other_formats_are_refused_by_their_name(name, content, fault, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    source = str(tmp_path / name.partition("/")[0])
    refused(fault, prepare, PrepareConfig(source, str(tmp_path / "out.zip")))


def test_classes_of_webdataset_are_read(tmp_path):
    names = {f"{index:03d}.{end}": png(index) if end == "png" else b"7\n" for index in (0, 1) for end in ("png", "cls")}
    assert made(tmp_path, packed(tmp_path / "in.zip", names))[0] == [7, 7]
    refused("cls", made, tmp_path, packed(tmp_path / "in.zip", names | {"001.cls": b"cat"}))


# Formats of pictures: only the named ones are opened, and at one place, whatever a file is called

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(name: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, format=name, **options)
    return stream.getvalue()


def test_an_eps_under_another_name_is_opened_at_no_door(tmp_path):
    """Pillow by itself would ask Ghostscript to draw it."""
    folder = write_folder(tmp_path / "pictures", {"a.png": EPS})
    for read in (lambda: open_images(folder).read(0, 1), lambda: prepare(PrepareConfig(folder, f"{tmp_path}/o.zip"))):
        refused(r"a\.png: not a readable picture \(its content is none of PNG", read)
    assert not (tmp_path / "o.zip").exists()


@pytest.mark.parametrize("name", ["PCX", "TGA", "JPEG2000"])
def test_formats_that_nobody_named_are_refused(name):
    refused("its content is none of", open_picture, encoded(name))


@pytest.mark.parametrize("suffix", sorted(PICTURES))
def test_every_named_format_is_read(suffix):
    picture = open_picture(encoded(FORMATS[suffix]))
    assert picture.size == (8, 8)
    assert picture.format == FORMATS[suffix]
