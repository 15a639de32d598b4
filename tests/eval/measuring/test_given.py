"""Images as people have them: in memory, sorted by class, beside a second set."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from eval.measuring.arrays import as_pixels
from eval.measuring.score import score_images
from eval.measuring.sources import CallableSource
from eval.measuring.stores import dealt_order, open_images
from eval.scoring import score
from sida.data import load_dataset
from tests.refused import refused


@pytest.fixture(scope="module")
def digits():
    data = load_dataset({"name": "digits", "kind": "digits"})
    return data.images(range(len(data))).numpy(), data.class_indices.numpy()


def forms(images, classes):
    tensors = torch.from_numpy(images)
    floats = tensors.float() / 127.5 - 1
    pairs = torch.utils.data.TensorDataset(tensors, torch.from_numpy(classes))
    pictures = [Image.fromarray(image[0]) for image in images]
    return {
        "tensor": tensors,
        "floats": floats,
        "list": list(images),
        "pictures": pictures,
        "data set": list(zip(pictures, classes.tolist())),
        "with classes": (images, classes),
        "loader": torch.utils.data.DataLoader(pairs, batch_size=7),
        "tensor data set": torch.utils.data.TensorDataset(tensors, torch.from_numpy(classes)),
        "pair": [tensors, torch.from_numpy(classes)],
        "mapping": {"image": tensors, "label": classes},
        "mappings": [{"image": picture, "label": int(label)} for picture, label in zip(pictures, classes)],
        "one by one": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tensors), batch_size=5),
        "grey": tensors[:, 0],
        "batches": (images[a : a + 8] for a in range(0, len(images), 8)),
    }


@pytest.mark.parametrize("form", forms(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64)))
def test_images_in_memory_are_the_same_pixels(form, digits):
    images, classes = digits[0][:32], digits[1][:32]
    found = as_pixels(forms(images, classes)[form], (-1, 1))
    shape = found.images.shape
    pixels = found.images.transpose(0, 3, 1, 2) if shape[-1] == 1 else found.images
    assert (pixels == images).all()
    assert found.classes is None or (found.classes == classes).all()
    bare = ("tensor", "floats", "list", "pictures", "batches", "one by one", "grey")
    assert (found.classes is None) == (form in bare)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (3, "cannot be read from int"),
        (np.zeros((2, 1, 8, 8), np.float32), "value_range"),
        (np.full((2, 1, 8, 8), 3.0), "range -1 to 1"),
        (np.zeros((2, 5, 8, 8), np.uint8), "shape"),
        ((np.zeros((2, 1, 8, 8), np.uint8), np.eye(2)), "one whole number"),
        ([np.zeros((1, 8, 8), np.uint8), np.zeros((1, 9, 9), np.uint8)], "one size"),
        ([], "are none"),
        ([Image.new("RGBA", (8, 8))], "mode RGBA"),
        ((np.zeros((2, 1, 8, 8), np.uint8), np.zeros(3, int)), "one whole number for each image"),
        ([object()], "cannot be read from object"),
    ],
)
def test_anything_else_is_one_line(value, fault):
    ranged = (-1, 1) if "range -1" in fault else None
    refused(fault, as_pixels, value, ranged)


def noise(seeds):
    return np.stack([np.random.default_rng(seed).integers(0, 256, (1, 8, 8), np.uint8) for seed in seeds])


class OnceABatch(torch.nn.Module):
    """Images of one stream a batch."""

    def forward(self, seeds):
        stream = torch.Generator().manual_seed(seeds[0])
        return torch.randint(0, 256, (len(seeds), 1, 8, 8), generator=stream, dtype=torch.uint8)


def unseeded(seeds):
    return np.random.default_rng().integers(0, 256, (len(seeds), 1, 8, 8), np.uint8)


def low_precision(seeds):
    return (noise(seeds) & 0xFE) + np.uint8(len(seeds) % 2)


class Needs:
    def __init__(self, width, depth=1):
        pass


class Plain:
    def __call__(self, seeds):
        return noise(seeds)


def fails(seeds):
    return torch.zeros(3) @ torch.zeros(4)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (OnceABatch(), "in another batch; .*once a batch"),
        (unseeded, "again; the same seed"),
        (Needs, "needs width; "),
        (fails, r"fails \(.*test_given.py, line \d+: RuntimeError"),
        (low_precision, None),
        (Plain, None),
    ],
)
def test_a_generator_is_asked_for_a_part_again_in_another_batch(function, fault):
    def batches():
        return list(CallableSource("mine:sample", function=function).batches(range(40), 10))

    if fault is None:
        assert len(batches()) == 4
    else:
        refused(fault, batches)


def test_a_function_is_the_second_set(digits):
    found = score(digits[0][:300], "digits", against=noise)
    assert found.values("fd")[0] > 100
    assert not any("fewer" in remark for remark in found.remarks)


def sorted_files(tmp_path, digits, count=400):
    """The same images sorted by class: with labels, by folders, by names."""
    order = np.argsort(digits[1][:count], kind="stable")
    images, classes = digits[0][order], digits[1][order]
    np.savez(tmp_path / "labels.npz", arr_0=images, arr_1=classes)
    forms = {"folders": "c{1}/{0:05d}.png", "names": "class{1}_{0:05d}.png", "ends": "{0:05d}-{1}.png"}
    for place, form in forms.items():
        for index, (image, label) in enumerate(zip(images, classes)):
            name = form.format(index, label)
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(tmp_path / place / name)
    with tarfile.open(tmp_path / "classes.tar", "w") as archive:
        for index, (image, label) in enumerate(zip(images, classes)):
            stream = io.BytesIO()
            Image.fromarray(image[0]).save(stream, "PNG")
            for suffix, content in (("png", stream.getvalue()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{index:06d}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    np.save(tmp_path / "my_images.npy", images)
    np.save(tmp_path / "my_labels.npy", classes)
    return [tmp_path / name for name in ("labels.npz", "folders", "names", "ends", "classes.tar", "my_images.npy")]


def test_images_sorted_by_class_are_dealt_and_the_record_says_so(tmp_path, digits):
    stores = [open_images(path) for path in sorted_files(tmp_path, digits)]
    first = [store.read(0, 400) for store in stores]
    assert all(store.dealt and "seed 0" in store.remarks[0] for store in stores)
    assert all((first[0] == other).all() for other in first)
    scored = score_images(tmp_path / "labels.npz", "digits", num_samples=400)
    assert scored.values("is")[0] > 5
    assert "dealt" in str(scored.records[0]["source"])
    # Without any label the splits of the score tell.
    np.save(tmp_path / "bare.npy", open_images(tmp_path / "my_images.npy")._images.read(0, 400))
    assert any("sorted" in line for line in score_images(tmp_path / "bare.npy", "digits", num_samples=400).warnings())


def test_a_random_order_and_numbered_folders_of_tools_stay(tmp_path, digits):
    np.savez(tmp_path / "mixed.npz", arr_0=digits[0], arr_1=digits[1])
    assert not open_images(tmp_path / "mixed.npz").dealt
    for index in range(60):
        name = tmp_path / f"tool/{index // 20:05d}/img{index:08d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][index, 0]).save(name)
    assert not open_images(tmp_path / "tool").dealt
    assert dealt_order(np.arange(100)) is None


def test_remarks_on_the_second_set(tmp_path, digits):
    np.savez(tmp_path / "a.npz", arr_0=digits[0][:40])
    same = score_images(tmp_path / "a.npz", "digits", against=tmp_path / "a.npz")
    assert any("the same images" in line for line in same.remarks)
    assert same.values("fd")[0] >= 0
    np.savez(tmp_path / "c.npz", arr_0=np.repeat(digits[0][40:60], 2, 0))
    fewer = score_images(tmp_path / "a.npz", "digits", against=tmp_path / "c.npz", num_samples=40)
    assert any("20 images equal another" in line for line in fewer.remarks)


def test_images_that_are_left_over_are_said(digits):
    found = score(digits[0][:300], "digits", trials=2, num_samples=100)
    assert any("100 images more than 2 × 100" in line for line in found.remarks)
    refused("k: 3 neighbours", score, digits[0][:300], "digits", num_samples=3)
