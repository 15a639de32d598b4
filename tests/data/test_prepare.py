"""`sida data prepare`, `check` and `encode`: the transforms, and sources as people have them."""

import contextlib
import gzip
import io
import json
import pickle
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from safetensors.torch import save as serialized
from safetensors.torch import save_file

from sida.data import archive
from sida.data.archive import Files
from sida.data.folders import picture_labels
from sida.data.pictures import FORMATS, PICTURES, as_shown, open_picture, to_square
from sida.data.prepare import TEST, PrepareConfig, encode_dataset, prepare, read_cifar10
from sida.eval.measuring.source import names_network
from sida.eval.measuring.stores import open_images
from tests.assets.fault_server import use_registry
from tests.data.test_archive import members, open_zip, pictures, png, tar_of, write_folder, write_zip
from tests.golden.vectors import GOLDEN
from tests.near import assert_near, is_copy, same_integers
from tests.refused import command, refusal, refused, refusing


def noise(width, height, channels=3, seed=0):
    """Pixels of a picture that is grey, grey with transparency, RGB or RGBA."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


NOISE = pictures(64)
PNG = png(NOISE[0])
#: As of LightningDiT.
LATENTS = serialized({"latents": torch.zeros(2, 4, 2, 2), "labels": torch.zeros(2)})


def packed(path, names) -> str:
    """A zip of these members, or of pictures with these names."""
    return write_zip(path, names if isinstance(names, dict) else dict(zip(names, map(png, NOISE))))


def made(tmp_path, source, **settings):
    """Labels and facts of a prepared archive."""
    facts = prepare(PrepareConfig(str(source), str(tmp_path / "out.zip"), **settings))
    labels = json.loads(content(tmp_path / "out.zip")["dataset.json"])["labels"]
    return labels and [label for _, label in labels], facts


def content(path):
    """Members of a zip archive in order, none of which is deflated."""
    with zipfile.ZipFile(path) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        return {name: archive.read(name) for name in archive.namelist()}


def stored(tmp_path, index=0):
    """Pixels of a picture of the prepared archive."""
    return np.asarray(Image.open(io.BytesIO(content(tmp_path / "out.zip")[f"00000/img{index:08d}.png"])))


# ---- transforms


@settings(max_examples=20)
@given(width=st.integers(1, 90), height=st.integers(1, 90), resolution=st.integers(1, 24))
def test_pictures_are_cropped_to_their_middle_and_resized_with_lanczos(width, height, resolution):
    image, side = Image.fromarray(noise(width, height)), min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    assert is_copy(to_square(image, "center-crop", None, 3), middle)
    for name, expected in (("none", image), ("center-crop", middle)):
        resized = expected.resize((resolution, resolution), Image.Resampling.LANCZOS)
        assert same_integers(to_square(image, name, resolution, 3), resized)
    if side > 3:
        assert to_square(image, "center-crop-dhariwal", resolution, 3).size == (resolution, resolution)


def test_the_guided_diffusion_crop_halves_then_resizes_then_crops():
    """80 × 36 to 8: halved twice (to 20 × 9 by box means), bicubic by 8/9, middle columns."""
    image = noise(80, 36)
    halved = image.astype(np.float64)
    for _ in range(2):
        height, width = halved.shape[0] // 2, halved.shape[1] // 2
        halved = np.floor(halved.reshape(2 * height, width, 2, 3).mean(2) + 0.5)  # Pillow rounds after each axis
        halved = np.floor(halved.reshape(height, 2, width, 3).mean(1) + 0.5)
    resized = Image.fromarray(halved.astype(np.uint8)).resize((18, 8), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[:, 5:13]
    assert same_integers(to_square(Image.fromarray(image), "center-crop-dhariwal", 8, 3), expected)


def test_deep_pictures_are_refused():
    refused("has mode I;16", to_square, Image.fromarray(np.zeros((8, 8), np.uint16)), "none", 8, 3)


# ---- folders and zips


@pytest.mark.parametrize("name", ["tiny_rgb_labels", "tiny_rgb_nolabels"])
def test_preparing_the_golden_archive_gives_the_golden_members(tmp_path, name):
    made(tmp_path, GOLDEN / "dataset" / f"{name}.zip")
    assert [*content(tmp_path / "out.zip").items()] == [*content(GOLDEN / "dataset" / f"{name}.zip").items()]


def test_a_part_has_all_classes_of_the_others(tmp_path):
    names = [f"{part}/{name}/a.png" for part in ("train", "test") for name in ("ant", "cat", "dog")]
    whole = write_folder(tmp_path / "in", dict.fromkeys(names, PNG))
    for few in (("test/cat/a.png",), ("test/ant/a.png", "test/dog/a.png")):
        source = write_folder(tmp_path / few[0][5:8], dict.fromkeys([*names[:3], *few], PNG))
        assert made(tmp_path, source)[0] == [0, 1, 2]
        with refusing("class folder (ant|cat) is in train and not in test", "name test as the source"):
            made(tmp_path, source, subset="test")
        assert made(tmp_path, source, subset="test", labels="none")[0] is None
    assert made(tmp_path, whole, subset="test")[0] == [0, 1, 2]


def test_pictures_are_read_by_as_many_children_as_the_job_has_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {5, 9})
    monkeypatch.setattr(archive, "PART", 1)
    convert, at_work, counts = archive.convert, set(), []

    def counted(*args, **options):
        at_work.add(one := object())
        counts.append(len(at_work))
        try:
            return convert(*args, **options)
        finally:
            at_work.remove(one)

    monkeypatch.setattr(archive, "convert", counted)
    made(tmp_path, write_folder(tmp_path / "in", {f"{index}.png": PNG for index in range(9)}), labels="none")
    assert len(counts) >= 9
    assert max(counts) == 2


def test_a_part_without_classes_is_none_with_others(tmp_path):
    names = ["train/ant/a.png", "train/cat/a.png", "test/b.png", "val/images/c.png"]
    source = write_folder(tmp_path / "in", dict.fromkeys(names[:3], PNG))
    assert made(tmp_path, source)[0] == [0, 1]
    source = write_folder(tmp_path / "other", dict.fromkeys([*names[:2], names[3]], PNG))
    assert made(tmp_path, source)[0] == [0, 1]


@pytest.fixture
def folder(tmp_path):
    """Three classes in folders; sizes and modes differ, as in ImageNet."""
    sizes = {"n02/a.png": (20, 12), "n01/b.png": (9, 30, 1), "n03/c.png": (16, 16, 4), "n01/a.png": (10, 10)}
    others = {"n01/readme.txt": b"not a picture", ".hidden/x.png": PNG}
    return Path(write_folder(tmp_path / "train", {name: png(noise(*size)) for name, size in sizes.items()} | others))


def test_a_folder_of_classes_becomes_a_data_set(folder, tmp_path):
    labels, facts = made(tmp_path, folder, resolution=8, transform="center-crop", expect=4)
    assert (labels, facts[:5]) == ([0, 0, 1, 2], (4, 8, 3, 3, ["n01", "n02", "n03"]))
    assert facts.summary == (
        "4 pictures read (2 RGB, 1 grey, 1 RGBA with its transparency on white), stored as RGB; 4 cropped or scaled; "
        "classes: 0 = n01, 1 = n02, 2 = n03; 1 file left out (1 hidden, such as .hidden/x.png); "
        "other files skipped: 1 .txt"
    )
    for index, name in enumerate(("n01/a.png", "n01/b.png", "n02/a.png", "n03/c.png")):
        expected = to_square(as_shown(Image.open(folder / name)), "center-crop", 8, 3)
        assert same_integers(stored(tmp_path, index), expected)
        assert (expected.mode, to_square(expected, "none", None, 1).mode) == ("RGB", "L")


@pytest.mark.parametrize(
    ("transform", "squeezed"), [("none", "(2 squeezed: not square; --transform center-crop "), ("center-crop", "")]
)
def test_pictures_that_lose_their_proportions_are_counted(folder, tmp_path, transform, squeezed):
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 9), np.uint8))
    for source in (folder, tmp_path / "x.npy"):
        summary = made(tmp_path, source, resolution=6, transform=transform)[1].summary
        assert squeezed in summary if squeezed else "squeezed" not in summary


def test_a_link_to_a_missing_file_is_told_as_such(folder, tmp_path):
    (folder / "n02" / "b.png").symlink_to(tmp_path / "gone.png")
    refused("n02/b.png: is a link.*replace it", made, tmp_path, folder, resolution=8)


def test_dataset_json_comes_before_folders(folder, tmp_path):
    names = ["n01/a.png", "n01/b.png", "n02/a.png", "n03/c.png"]
    (folder / "dataset.json").write_text(json.dumps({"labels": [[name, 7 - i] for i, name in enumerate(names)]}))
    for rule, labels in (("auto", [7, 6, 5, 4]), ("folders", [0, 0, 1, 2]), ("none", None)):
        assert made(tmp_path, folder, labels=rule, resolution=8)[0] == labels


def test_all_damaged_pictures_are_named_in_one_run(folder, tmp_path):
    whole = (folder / "n02" / "a.png").read_bytes()
    (folder / "n02" / "a.png").write_bytes(whole[: len(whole) // 2])
    (folder / "n01" / "b.png").write_bytes(b"no picture")
    both = r"n01/b.png: not a readable picture.*n02/a.png: not a readable picture"
    refused(both, made, tmp_path, folder, resolution=8)
    assert not (tmp_path / "out.zip").exists()


def test_pictures_of_one_fault_are_told_once_with_their_names(tmp_path):
    deep = png(np.zeros((8, 8), np.uint16))
    source = write_folder(tmp_path / "in", {"a.png": deep, "b.png": PNG, "c/d.png": deep, "e.png": b"x", "f.png": deep})
    line = str(
        refused(r"in: a.png, c/d.png, f.png: has more .*; .*; .*in: e.png: not", made, tmp_path, source, labels="none")
    )
    assert line.count("8 bits first") == 1


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_folder_of_arrays_is_refused_with_what_is_read(suffix, tmp_path):
    (folder := tmp_path / "mine").mkdir()
    for index in range(3):
        (np.save if suffix == "npy" else np.savez)(folder / f"{index}.{suffix}", np.zeros((6, 5), np.uint8))
    refused(rf"mine: .*3 \.{suffix}; .*one array", made, tmp_path, folder)


@pytest.mark.parametrize(("other", "channels"), [(2, 1), (3, 3)])
def test_only_sets_that_are_all_grey_stay_grey(tmp_path, other, channels):
    source = packed(tmp_path / "in.zip", {f"{kind}.png": png(noise(8, 8, kind)) for kind in (1, other)})
    assert made(tmp_path, source, channels=None)[1].channels == channels


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--expect", 5, "--resolution", 8], "has 4 images, expected 5"),
        ([], "n01/b.png: is 9×30, and 2 further pictures of unlike size; give --resolution N"),
        (
            ["--transform", "center-crop"],
            "n01/b.png: is 9×9, the first picture 10×10, and 2 further pictures of unlike size; give --resolution N",
        ),
        (["--transform", "crop"], "transform: must be one of none, center-crop"),
        (["--out", "x.tar"], "out: must end in .zip"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(folder, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(command, "data", "prepare", "--source", folder, "--out", "o.zip", *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


# ---- CIFAR-10


CIFAR = "cifar-10-python.tar.gz"


def broken_cifar(kind: type, label: int) -> dict[str, bytes]:
    batch = pickle.dumps({"data": np.zeros((1, 3072), kind), "labels": [label]}, protocol=2)
    return {CIFAR: tar_of({f"cifar-10-batches-py/data_batch_{i}": batch for i in range(1, 6)}, "w:gz")}


def python2_batch(pixels: bytes, labels: list[int]) -> bytes:
    """A batch opcode by opcode as Python 2 wrote the published ones: byte strings, old module names, binary puts."""
    count, size = len(labels).to_bytes(2, "little"), len(pixels).to_bytes(4, "little")
    dtype = b"cnumpy\ndtype\nq\x0eU\x02u1q\x0fK\x00K\x01\x87q\x10Rq\x11"
    dtype += b"(K\x03U\x01|q\x12NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x13b"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01bq\n\x87q\x0bRq\x0c"
    array += b"(K\x01M" + count + b"M\x00\x0c\x86q\r" + dtype + b"\x89T" + size + pixels + b"q\x14tq\x15b"
    names = b"U\tfilenamesq\x16]q\x17(" + b"".join(b"U\x05a.png" for _ in labels) + b"e"
    numbers = b"U\x06labelsq\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    title = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
    return title + numbers + b"U\x04dataq\x06" + array + names + b"u."


def test_cifar_as_python_2_wrote_it_is_read_in_its_order(tmp_path):
    rng, whole, members = np.random.default_rng(0), {}, {"cifar-10-batches-py/readme.html": b"no pickle"}
    for name in ("data_batch_3", "data_batch_1", "data_batch_2", "data_batch_5", "data_batch_4", "test_batch"):
        pixels, labels = whole[name] = rng.integers(0, 256, (3, 3072), np.uint8), rng.integers(0, 10, 3).tolist()
        members[f"cifar-10-batches-py/{name}"] = python2_batch(pixels.tobytes(), labels)
    archive = tmp_path / CIFAR
    archive.write_bytes(tar_of(members, "w:gz"))
    found, facts = made(tmp_path, archive, expect=15)
    assert facts[:4] == (15, 32, 3, 10)
    ordered = [whole[f"data_batch_{number}"] for number in range(1, 6)]
    assert found == [label for _, labels in ordered for label in labels]
    for index, pixels in enumerate(np.concatenate([pixels for pixels, _ in ordered])):
        assert is_copy(stored(tmp_path, index).transpose(2, 0, 1).reshape(-1), pixels)
    assert read_cifar10(Files(archive), TEST)[1].tolist() == whole["test_batch"][1]
    binary = {
        f"batches/{name}.bin": b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, rows))
        for name, (rows, labels) in whole.items()
    }
    by_python = (tmp_path / "out.zip").read_bytes()
    (tmp_path / "binary.tar").write_bytes(tar_of(binary))
    assert made(tmp_path, tmp_path / "binary.tar")[0] == found
    assert (tmp_path / "out.zip").read_bytes() == by_python


# ---- check and encode


def test_grey_pictures_are_refused_before_the_autoencoder_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("sida.cli.data.fetch_many", lambda ids: pytest.fail("fetched"))
    made(tmp_path, packed(tmp_path / "in.zip", ["a.png"]), channels=1)
    refused("RGB pixels.*--channels 3", command, "data", "encode", "--source", tmp_path / "out.zip", "--out", "l.zip")


def test_check_describes_a_data_set_and_names_a_bad_image(tmp_path):
    content = members(NOISE[:5], [0, 2, 0, 2, 0])
    path = write_zip(tmp_path / "a.zip", content)
    said = command("data", "check", path)
    assert "a: 5 images 8×8×3\n  3 classes of 0 to 3 images\n  none of class 1\n  sha256" in said
    write_zip(tmp_path / "a.zip", content | {name: content[name][:50] for name in list(content)[2:5:2]})
    assert "img00000002.png: not a readable picture" in refusal(command, "data", "check", path)


def test_encoding_writes_a_latent_data_set(tmp_path, capsys):
    images = pictures(4, size=16)
    source = open_zip(write_zip(tmp_path / "rgb.zip", members(images, [0, 0, 1, 2])))

    def encode(images):
        small = torch.nn.functional.avg_pool2d(images.float() / 255, 8)
        return torch.cat([small, small[:, :1]] * 2, 1)

    assert encode_dataset(source, str(tmp_path / "latent.zip"), encode, batch_size=3) == (8, 2, 2)
    assert "  100 %" in capsys.readouterr().err
    data = open_zip(tmp_path / "latent.zip", label_dim=3)
    assert_near(data.images(range(4)), encode(source.images(range(4))))
    assert data.class_indices.tolist() == [0, 0, 1, 2]
    assert next(iter(content(tmp_path / "latent.zip"))) == "00000/img-mean-std-00000000.npy"
    refused("must be RGB pixels", encode_dataset, data, str(tmp_path / "x.zip"), encode)


@pytest.fixture
def encoding(tmp_path, monkeypatch):
    """Encodes eleven images in parts of four into an archive, and fails at a call; lists the sizes of its calls."""
    monkeypatch.setattr("sida.data.prepare.ENCODED", 4)
    source = open_zip(write_zip(tmp_path / "rgb.zip", members(pictures(11, size=16), [0, 1] * 5 + [0])))

    def run(name, fails_at=None, **processes):
        calls = []

        def encode(images):
            calls.append(len(images))
            if len(calls) == fails_at:
                raise KeyboardInterrupt
            return images.float().mean((2, 3), keepdim=True)[:, [0, 1, 2, 0]]

        with contextlib.suppress(KeyboardInterrupt):
            run.shape = encode_dataset(source, str(tmp_path / name), encode, batch_size=2, **processes)
        return calls

    return run


def test_an_interrupted_encoding_goes_on_and_its_archive_has_the_same_bytes(encoding, tmp_path):
    assert encoding("whole.zip") == [2, 2, 2, 2, 2, 1]
    assert encoding("again.zip", fails_at=4) == [2, 2, 2, 2]
    assert not (tmp_path / "again.zip").exists()
    # The first part has two batches; of the second one was lost.
    assert encoding("again.zip") == [2, 2, 2, 1]
    assert encoding.shape == (4, 1, 1)
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert not list(tmp_path.glob("again.zip.*"))


def test_a_part_that_vanishes_before_the_parts_are_joined_is_named(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr("sida.data.prepare.PartFolder.read", lambda parts, place: None)
    refused(r"latent\.zip\.parts/.*: vanished or changed.*same command", encoding, "latent.zip")
    assert not (tmp_path / "latent.zip").exists()


def test_several_processes_encode_and_the_last_one_writes_the_same_archive(encoding, tmp_path):
    encoding("whole.zip")
    assert encoding("shared.zip", rank=0, world=2) == [2, 2, 2, 1]
    assert encoding.shape is None
    assert encoding("shared.zip", rank=1, world=2) == [2, 2]
    assert encoding.shape == (4, 1, 1)
    assert (tmp_path / "shared.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert not list(tmp_path.glob("shared.zip.*"))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x_train": (2, None), "y_train": (2, (2, 1)), "x_test": (3, None), "y_test": (3, (3, 1))}, "x_"),
        ({f"{part}_{kind}": (n, shape) for part, n in (("train", 2), ("val", 1), ("test", 3))
          for kind, shape in (("images", None), ("labels", (n,)))}, ""),
    ],
    ids=["Keras", "MedMNIST"],
)  # fmt: skip
def test_parts_of_an_npz_are_data_sets_with_their_classes(arrays, part, tmp_path):
    filled = {n: NOISE[:c] if shape is None else np.arange(c).reshape(shape) for n, (c, shape) in arrays.items()}
    np.savez(tmp_path / "parts.npz", **filled)
    labels, facts = made(tmp_path, tmp_path / "parts.npz")
    assert (labels, facts.images) == ([0, 1], 2)
    assert "part train of train, " in facts.summary
    assert made(tmp_path, tmp_path / "parts.npz", subset="test")[0] == [0, 1, 2]
    refused("holds the parts train, .*--subset", open_images, tmp_path / "parts.npz")


TENSORS = torch.from_numpy(NOISE[:5]).permute(0, 3, 1, 2).contiguous()
CLASSES = [3, 0, 1, 1, 2]
#: Images, with classes or without, in files of tensors and pickles by the name of the file.
IN_TENSORS = {
    "one.pth": TENSORS,
    "views.pt": [*TENSORS],
    "batches.pt": [TENSORS[:3], TENSORS[3:]],
    "singles.pkl": [image[None] for image in NOISE[:5]],
    "objects.npy": {"images": NOISE[:5], "labels": CLASSES},
    "dictionary.ckpt": {"samples": TENSORS, "targets": torch.tensor(CLASSES), "config": Path("a"), "step": 7},
    "tuple.pickle": (NOISE[:5], np.array(CLASSES)),
    "pairs.pt": [(image, label) for image, label in zip(TENSORS, CLASSES)],
    "rows.pkl": [{"image": image, "label": label} for image, label in zip(NOISE, CLASSES)],
    "two.safetensors": {"images": TENSORS, "y": torch.tensor(CLASSES), "scale": torch.ones(2, dtype=torch.bfloat16)},
}


def write_tensors(path: Path, value) -> Path:
    if path.suffix == ".npy":
        np.save(path, value)
    elif path.suffix == ".safetensors":
        save_file(value, path)
    elif path.suffix.startswith(".p") and not path.suffix.startswith(".pt"):
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=path.suffix != ".pth")
    return path


@pytest.mark.parametrize("name", IN_TENSORS)
def test_images_in_files_of_tensors_are_read_with_their_classes(name, tmp_path):
    path = write_tensors(tmp_path / name, IN_TENSORS[name])
    classes = None if name in ("one.pth", "views.pt", "batches.pt", "singles.pkl") else CLASSES
    labels, facts = made(tmp_path, path)
    assert (labels, facts.images) == (classes, 5)
    assert is_copy(stored(tmp_path, 4), NOISE[4])
    store = open_images(path)
    assert is_copy(store.read(1, 4), TENSORS[1:4])
    assert store.classes is None or store.classes.tolist() == classes
    assert not names_network(str(path))


def saved(write, *values) -> bytes:
    stream = io.BytesIO()
    write(stream, *values)
    return stream.getvalue()


#: Content of arrays and of pickles by names that do not tell it.
UNTOLD = {
    "A.NPZ": saved(np.savez, NOISE[:4]),
    "b.Npy": saved(np.save, NOISE[:4]),
    "C.NPY.GZ": gzip.compress(saved(np.save, NOISE[:4])),
    "samples.bin": saved(np.save, NOISE[:4]),
    "batch_7": pickle.dumps({"images": NOISE[:4], "names": ["x"] * 4}),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_arrays_are_known_whatever_their_file_is_called(name, tmp_path):
    (tmp_path / name).write_bytes(UNTOLD[name])
    assert made(tmp_path, tmp_path / name)[1].images == 4
    assert is_copy(stored(tmp_path, 3), NOISE[3])
    assert not names_network(str(tmp_path / name))


def test_a_pickle_without_images_is_told_by_its_arrays(tmp_path):
    (tmp_path / "train").write_bytes(pickle.dumps({"data": NOISE.reshape(64, -1), "fine_labels": [1] * 64}))
    refused(r"arrays of numbers: data, fine_labels|has shape \(64, 192\)", made, tmp_path, tmp_path / "train")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}, "network.*sida score"),
        ({"images": TENSORS / 255}, "images.*holds float32; save images as uint8"),
        ({"images": TENSORS[:1].expand(4000, 3, 8, 8)}, "claim 768,000 elements"),
        ([*TENSORS, TENSORS[0, :, :5]], "x.pt: its arrays differ in size"),
        ({"images": TENSORS, "labels": ["cat"] * 5}, "array 'labels'.*not an array of numbers"),
    ],
    ids=["weights", "floats", "repeated", "unlike", "texts"],
)
def test_tensors_that_are_no_images_are_refused_by_their_kind(value, told, tmp_path):
    refused(told, made, tmp_path, write_tensors(tmp_path / "x.pt", value))


@pytest.mark.parametrize("name", ["kmnist-train-imgs.npz", "my_imgs.npy", "images.npy"])
def test_classes_lie_in_a_second_file(name, tmp_path):
    save = np.savez if name.endswith("npz") else np.save
    images, classes = tmp_path / name, tmp_path / re.sub("imgs|images", "labels", name)
    save(images, NOISE[:3])
    save(classes, np.array([2, 0, 1]))
    labels, facts = made(tmp_path, images)
    assert labels == [2, 0, 1]
    assert classes.name in facts.summary
    save(classes, np.eye(3))
    refused("--labels none", made, tmp_path, images)


@pytest.mark.parametrize("writing", ["NFC", "NFD", "./", "\\"])
def test_names_of_labels_may_be_written_otherwise(writing, tmp_path):
    form = writing if writing.startswith("N") else "NFC"
    names = [unicodedata.normalize("NFD" if form == "NFC" else "NFC", f"a/é{index}.png") for index in range(2)]
    told = [unicodedata.normalize(form, name) for name in names]
    told = [f"./{name}" if writing == "./" else name.replace("/", "\\") if writing == "\\" else name for name in told]
    pairs = json.dumps({"labels": [[name, 1 - index] for index, name in enumerate(told)]}).encode()
    source = packed(
        tmp_path / "in.zip", {**{name: png(NOISE[i]) for i, name in enumerate(names)}, "dataset.json": pairs}
    )
    assert made(tmp_path, source)[0] == [1, 0]
    beside = {told[0].replace("png", "cls"): b"3", told[1].replace("png", "cls"): b"5"}
    assert made(tmp_path, packed(tmp_path / "w.zip", dict.fromkeys(names, PNG) | beside))[0] == [3, 5]


def test_tars_give_the_same_archive_as_their_folders(tmp_path):
    """ImageNet as published, a tar of one tar per class; unpacked; and packed by `tar cf all.tar -C train .`."""
    classes = {
        name: {f"{name}_{index}.JPEG": png(NOISE[10 * rank + index], "JPEG") for index in range(3 - rank)}
        for rank, name in enumerate(("n02", "n01", "n10"))
    }
    files = {f"./{name}/{file}": data for name, found in classes.items() for file, data in found.items()}
    write_folder(tmp_path / "train", files)
    tars = {f"{name}.tar": tar_of(dict(reversed(found.items()))) for name, found in classes.items()}
    for name, content in (("train.tar", tars), ("all.tar", files)):
        (tmp_path / name).write_bytes(tar_of(content))
    found = [
        [*made(tmp_path, tmp_path / source, workers=workers), (tmp_path / "out.zip").read_bytes()]
        for workers, source in enumerate(("train", "train.tar", "all.tar"), start=1)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][1].class_names == ["n01", "n02", "n10"]


def test_a_tars_index_is_read_without_its_content(tmp_path):
    with open(tmp_path / "large.tar", "wb") as stream:
        for name in ("a/0.png", "b/0.png", "b/1.png"):
            info = tarfile.TarInfo(name)
            info.size = 1 << 34
            stream.write(info.tobuf())
            stream.seek(info.size, io.SEEK_CUR)
        stream.write(bytes(1024))
    files = Files(tmp_path / "large.tar")
    assert picture_labels(files, files.pictures(), "auto").labels.tolist() == [0, 1, 1]


def test_a_source_may_be_an_asset(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    write_zip(tmp_path / "cache/faces.zip", members(pictures(2)))
    use_registry(monkeypatch, tmp_path, {"id": "faces", "kind": "dataset", "target": "faces.zip"})
    monkeypatch.chdir(tmp_path)
    said = command("data", "prepare", "--source", "faces", "--out", "f.zip", "--labels", "none", "--expect", 2)
    assert "2 images 8×8, no labels" in said


# ---- sources as people have them: labels, folders that are no classes, formats of pictures, arrays, MNIST's format


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["all/cat/0.png", "all/dog/0.png"], [0, 1]),
        (["__MACOSX/a/._0.png", "a/0.png", "b/.0.png", "b/0.png"], [0, 1]),
        (["10/a.png", "2/a.png", "1/a.png"], [0, 2, 1]),  # in the order of names: 1, 10, 2
        (["00000/a.png", "00001/b.png"], None),
        (["train/a/0.png", "train/b/0.png", "val/b/0.png"], [0, 1]),
        (["class10/a.png", "class9/a.png"], [1, 0]),
        (["a\\0.png", "b\\0.png"], [0, 1]),  # of Windows PowerShell
        (["./a/0.png", "/b/0.png"], [0, 1]),
        (["@eaDir/a/0.png", "a/0.png", "a/1.png", "b/0.png"], [0, 0, 1]),
        # In the folder that holds everything, and of WebDataset.
        ({"in/a/0.png": PNG, "in/a/1.png": PNG, "in/dataset.json": b'{"labels": [["a/0.png", 1], ["a/1.png", 0]]}'},
         [1, 0]),
        ({"000.png": PNG, "000.cls": b"7\n", "001.png": PNG, "001.cls": b"3"}, [7, 3]),
        ({"s/7.image.png": PNG, "s/7.cls": b"4", "s/8.image.png": PNG, "s/8.cls": b"0", "s/8.json": b"{}"}, [4, 0]),
        # Of datasets' ImageFolder: rows in any order, in the folder of a part; rows without labels leave folders.
        ({"train/a.png": PNG, "train/b.png": PNG, "train/metadata.jsonl":
          b'{"file_name": "b.png", "label": 2, "text": "\xe2\x80\xa8"}\n{"file_name": "a.png", "label": 5}\n'}, [5, 2]),
        ({"x/a.png": PNG, "y/b.png": PNG, "metadata.csv": b"\xef\xbb\xbffile_name,label\ny/b.png,0\nx/a.png,1\n"},
         [1, 0]),
        ({"x/a.png": PNG, "y/b.png": PNG, "metadata.jsonl": b'{"file_name": "y/b.png", "text": "red"}'}, [0, 1]),
        # As Excel writes it in many countries.
        ({"a.png": PNG, "b.png": PNG, "metadata.csv": b"\xef\xbb\xbffile_name;label\r\na.png;4\r\nb.png;0"}, [4, 0]),
    ],
)  # fmt: skip
def test_classes_are_those_of_folders_or_files(names, labels, tmp_path):
    found, facts = made(tmp_path, packed(tmp_path / "in.zip", names))
    assert found == labels
    assert all(f"{rank} = {name}" in facts.summary for rank, name in enumerate(facts.class_names))


def test_files_that_are_left_out_are_counted_by_their_reason(tmp_path):
    folder = write_folder(tmp_path / "in", dict.fromkeys(["a/0.png", "a/Thumbs.db", "a/.x.png", ".git/x"], PNG))
    told = r"3 files left out \(1 of an operating system, such as a/Thumbs.db; 2 hidden, such as .git/x\)"
    assert re.fullmatch(told, Files(folder).left_out)


def linked(links, kind=tarfile.SYMTYPE):
    """A tar of a picture and links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("a/0.png")
        entry.size = len(PNG)
        archive.addfile(entry, io.BytesIO(PNG))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return stream.getvalue()


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("b/1.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a/0.png", PNG)
        archive.writestr(link, "../a/0.png")
    refused("b/1.png: is a link; pack the files", made, tmp_path, tmp_path / "in.zip")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (linked({"b/1.png": "a/0.png"}), "b/1.png: is a link; pack the files"),
        (linked({"b/1.png": "a/0.png"}, tarfile.LNKTYPE), "b/1.png: is a link; .*--hard-dereference"),
        (tar_of({"a/0.png": PNG, "b/in.tar.gz": b"x", "b/in.zip": b"x"}), "1 picture and 2 archives"),
        (
            tar_of({"a.tar": tar_of({"0.png": PNG}), "b.tar": tar_of({}), "c.tar": tar_of({"0.png": PNG})}),
            "1 class folder .*b",
        ),
        (tar_of({"a/0.png": PNG, "b/0.heic": b"x", "c/.0.png": PNG, "d/0.png": PNG}), "2 class folders .*b, c"),
    ],
)
def test_pictures_that_would_be_left_out_are_named(content, fault, tmp_path):
    (tmp_path / "in.tar").write_bytes(content)
    refused(fault, made, tmp_path, tmp_path / "in.tar")


def test_an_empty_folder_of_a_class_and_pictures_that_are_left_out_are_named(tmp_path):
    folder = Path(write_folder(tmp_path / "in", {"a/0.png": PNG, "c/0.png": PNG}))
    (folder / "b" / ".ipynb_checkpoints").mkdir(parents=True)
    refused("1 class folder .*b", made, tmp_path, folder)
    assert made(tmp_path, folder, labels="none")[1].images == 2
    hidden = write_folder(tmp_path / "hidden", {"._0.png": PNG, "__MACOSX/0.png": PNG, "x.txt": b""})
    refused("no pictures .*2 files left out .*1 .txt", made, tmp_path, hidden)


@pytest.mark.parametrize(
    ("source", "settings", "fault"),
    [
        (["a/0.png", "b/0.png", "0.png"], {}, "--labels"),
        (["train/a.png", "training/b.png", "test/c.png"], {}, "name one as the source"),
        (["a/0.png", "a/1.png", "b/0.png"], {"max_images": 2}, "--max-images"),
        (["train/a.png", "test/b.png", "extra/c.png"], {}, "--labels"),  # parts, and no classes
        (["00000/0.png", "00001/0.png"], {}, "--labels"),  # a tool counts on
        (["0.png", "meta/dataset.json"], {}, "meta/"),
        ({"in/0.png": PNG, "in/0.cls": b"cat"}, {}, "0.cls is missing or holds no class"),
        (
            {"in/0.png": PNG, "in/metadata.jsonl": b'{"file_name": "0.png", "label": "cat"}'},
            {},
            "metadata.jsonl: .*--labels",
        ),
        ({"in/0.png": PNG, "in/metadata.csv": b"image,label\n0.png,1"}, {}, "metadata.csv: .*'file_name' and 'label'"),
        (
            {"in/0.png": PNG, "in/metadata.csv": b"file_name,label\n0.png,\xe9"},
            {},
            "metadata.csv:2: is not UTF-8 .*UTF-8",
        ),
        (["photos/IMG_1.HEIC", "photos/IMG_2.HEIC"], {}, "other files: 2 .HEIC; convert them to PNG"),
        # Formats of others, by their names
        (broken_cifar(np.float64, 0), {}, "data_batch_1: .*must hold 'data' uint8"),
        (broken_cifar(np.uint8, 10), {}, "data_batch_1: .*labels' from 0 to 9"),
        ({"in/test_batch.bin": bytes(3074)}, {"subset": "test"}, "test_batch.bin: .*uint8"),
        ({"in/test_batch.bin": b"\x0a" + bytes(3072)}, {"subset": "test"}, "test_batch.bin: .*from 0 to 9"),
        ({"a.parquet": b"PAR1"}, {}, "is Parquet"),
        ({"a.bmp": b""}, {}, "is one picture"),
        ({"data.bin": b"\x89HDF\r\n"}, {}, "is HDF5"),
        ({"net.safetensors": b"\x10" + bytes(7)}, {}, "is a network, .*sida score"),
        ({"rank0.safetensors": LATENTS}, {}, "is latents.*sida data encode"),
        ({"folder/rank0.safetensors": LATENTS}, {}, "holds latents.*sida data encode"),
        ({"folder/train-0.arrow": b"ARROW1"}, {}, "holds Arrow"),
        ({"folder/a.tfrecord-00003-of-00008": b"x"}, {}, "holds TFRecord"),
        ({"shards/0000.tar": b""}, {}, "holds no pictures"),
        ({"t10k-labels-idx1-ubyte": b"\0\0\x08\1\0\0\0\1\3"}, {}, "give pictures in a folder"),
        ({"images-idx3-ubyte": b"\0\0\x08\1\0\0\0\1\3"}, {}, r"images must be \(N, H, W, C\)"),
    ],
)
def test_doubtful_classes_and_other_formats_are_refused(source, settings, fault, tmp_path):
    files = source if isinstance(source, dict) else {f"in/{name}": PNG for name in source}
    write_folder(tmp_path, files)
    refused(fault, made, tmp_path, tmp_path / next(iter(files)).partition("/")[0], **settings)
    assert not (tmp_path / "out.zip").exists()


def test_a_part_is_taken_without_classes_too(tmp_path):
    source = packed(tmp_path / "in.zip", ["set/train/a/0.png", "set/train/b/0.png", "set/test/a/0.png"])
    counts = {part: made(tmp_path, source, labels="none", subset=part)[1].images for part in (None, "train", "test")}
    assert counts == {None: 3, "train": 2, "test": 1}
    assert made(tmp_path, source)[0] == [0, 1]
    plain = packed(tmp_path / "plain.zip", ["a/0.png", "b/0.png"])
    for labels in ("auto", "none"):
        refused("leave out --subset", made, tmp_path, plain, labels=labels, subset="test")


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_is_stored_as_a_viewer_shows_it(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    made(tmp_path, packed(tmp_path / "in.zip", {"0.png": png(NOISE[0], exif=exif)}))
    turned = {2: NOISE[0][:, ::-1], 3: NOISE[0][::-1, ::-1], 4: NOISE[0][::-1], 5: NOISE[0].transpose(1, 0, 2)}
    turned |= {6: np.rot90(NOISE[0], -1), 7: np.rot90(NOISE[0], 2).transpose(1, 0, 2), 8: np.rot90(NOISE[0])}
    assert is_copy(stored(tmp_path), turned[orientation])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L"])
@pytest.mark.parametrize("alpha", [0, 128])
def test_transparency_lies_on_white(mode, alpha, tmp_path):
    """Of pictures with an alpha channel, and of those with one transparent colour."""
    stream, colour = io.BytesIO(), (10, 10, 10)
    picture = Image.new("RGB", (8, 8), colour).convert(mode[:-1] if mode in ("RGBA", "LA") else mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.new("L", (8, 8), alpha))
        picture.save(stream, "PNG")
    else:
        picture.save(stream, "PNG", transparency=colour if mode == "RGB" else 10)
    _, facts = made(tmp_path, packed(tmp_path / "in.zip", {"0.png": stream.getvalue()}))
    expected = round(255 - alpha / 255 * 245) if mode in ("RGBA", "LA") else 255
    assert abs(stored(tmp_path).astype(int) - expected).max() <= 1
    assert "with its transparency on white" in facts.summary


def exchanged(first=b"gXYZ", second=b"bXYZ"):
    """sRGB's profile with two colours exchanged, as a viewer would show them."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {bytes(content[i : i + 4]): i for i in range(132, 132 + 12 * int.from_bytes(content[128:132], "big"), 12)}
    a, b = (slice(at[name] + 4, at[name] + 12) for name in (first, second))
    content[a], content[b] = content[b], content[a]
    return bytes(content)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("TIFF", {})])
def test_colours_of_a_profile_are_stored_as_a_viewer_shows_them(form, options, tmp_path):
    picture = Image.new("RGB", (8, 8), (20, 240, 30))
    for number, profile in enumerate(
        (exchanged(), exchanged()[:200], ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    ):
        stream = io.BytesIO()
        picture.save(stream, form, icc_profile=profile, **options)
        name = f"0.{form.lower()}"
        _, facts = made(tmp_path, packed(tmp_path / "in.zip", {name: stream.getvalue()}))
        # A damaged profile, and that of sRGB, leave the colours.
        expected = (20, 30, 240) if number == 0 else (20, 240, 30)
        assert abs(stored(tmp_path)[4, 4].astype(int) - expected).max() <= 8
        assert ("colours of its profile" in facts.summary) == (number == 0)


def test_transparency_of_a_palette_lies_on_white(tmp_path):
    stream, picture = io.BytesIO(), Image.new("P", (8, 8), 1)
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.save(stream, "PNG", transparency=1)
    _, facts = made(tmp_path, packed(tmp_path / "in.zip", {"0.png": stream.getvalue()}))
    assert stored(tmp_path).min() == 255
    assert "white" in facts.summary


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_files_of_mnist_s_format(pack, tmp_path):
    images, labels = NOISE[..., 0], np.arange(64, dtype=np.uint8) % 10
    end = ".gz" if pack is gzip.compress else ""
    for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / f"t10k-{stem}-ubyte{end}").write_bytes(pack(head + array.tobytes()))
    found, facts = made(tmp_path, tmp_path, subset="test", channels=1)
    assert (found, facts.images, facts.resolution) == (labels.tolist(), 64, 8)
    assert is_copy(stored(tmp_path, 5), images[5])
    path = tmp_path / f"t10k-images-idx3-ubyte{end}"
    path.write_bytes(pack(b"\0\0\x08\3" + struct.pack(">3I", 64, 8, 8) + b"x"))
    refused("fetch it again", made, tmp_path, path)


def test_arrays_are_sources(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=NOISE, arr_1=np.arange(64) % 4)
    assert made(tmp_path, tmp_path / "a.npz")[0] == [index % 4 for index in range(64)]
    np.save(tmp_path / "a.npy", NOISE.transpose(0, 3, 1, 2))
    found, facts = made(tmp_path, tmp_path / "a.npy", resolution=4)
    assert (found, facts.resolution) == (None, 4)
    assert "64 cropped or scaled" in facts.summary
    (tmp_path / "a.npy.gz").write_bytes(gzip.compress((tmp_path / "a.npy").read_bytes()))
    assert made(tmp_path, tmp_path / "a.npy.gz", resolution=4)[1] == facts
    refused("--max-images", made, tmp_path, tmp_path / "a.npz", max_images=3)
    refused("leave out --labels", made, tmp_path, tmp_path / "a.npz", labels="folders")
    np.save(tmp_path / "wide.npy", NOISE[:, :4])
    assert refused("8×4; give --resolution", made, tmp_path, tmp_path / "wide.npy").where.endswith("wide.npy")


@pytest.mark.parametrize("name", ["arr_1", "labels", "y", "classes"])
def test_arrays_of_texts_and_objects_beside_the_images_are_not_read(tmp_path, name):
    beside = {
        "captions": np.array([f"no. {index}" for index in range(64)]),
        "settings": np.array({"guidance": 1.5, "seeds": range(64)}, object),
        "finished": np.array("2026-11-28", "datetime64[D]"),
    }
    np.savez(tmp_path / "a.npz", images=NOISE, **{name: np.arange(64) % 3}, **beside)
    assert made(tmp_path, tmp_path / "a.npz")[0] == [index % 3 for index in range(64)]
    # Classes that are texts are needed, unless they are left out; images are needed at any time.
    np.savez(tmp_path / "b.npz", images=NOISE, **{name: beside["captions"]})
    refused(f"array '{name}': its array does not hold plain numbers", made, tmp_path, tmp_path / "b.npz")
    assert made(tmp_path, tmp_path / "b.npz", labels="none")[0] is None
    np.savez(tmp_path / "c.npz", images=beside["captions"], masks=NOISE)
    refused("array 'images': its array does not hold plain numbers", made, tmp_path, tmp_path / "c.npz")


def test_a_png_with_a_long_text_is_read(tmp_path):
    """Such as the workflow of a program that drew it."""
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "node " * 600_000, zip=True)
    text.add_itxt("prompt", "a picture " * 300_000, zip=True)
    (tmp_path / "x").mkdir()
    Image.fromarray(NOISE[0]).save(tmp_path / "x" / "0.png", pnginfo=text)
    assert made(tmp_path, tmp_path / "x", labels="none")[1].images == 1


@pytest.mark.parametrize("action", ["prepare", "encode"])
def test_no_archive_is_written_over_its_source(action, tmp_path):
    source, link = packed(tmp_path / "a.zip", ["0.png", "1.png"]), tmp_path / "b.zip"
    link.hardlink_to(source)
    whole = link.read_bytes()
    assert str(link) in refusal(command, "data", action, "--source", source, "--out", link)
    assert link.read_bytes() == whole


# Formats of pictures: only the named ones are opened, and at one place, whatever a file is called

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_an_eps_under_another_name_is_opened_at_no_door(tmp_path):
    """Pillow by itself would ask Ghostscript to draw it."""
    folder = write_folder(tmp_path / "pictures", {"a.png": EPS})
    for read in (lambda: open_images(folder).read(0, 1), lambda: made(tmp_path, folder)):
        refused(r"a\.png: not a readable picture \(its content is none of PNG", read)
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("suffix", sorted(PICTURES))
def test_every_named_format_is_read(suffix):
    picture = open_picture(png(NOISE[0, ..., 0], FORMATS[suffix]))
    assert picture.size == (8, 8)
    assert picture.format == FORMATS[suffix]
