"""Anyone's images: stores of files, arrays in memory, functions of seeds; each fault in one line."""

import io
import itertools
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sida.eval.measuring.functions import CallableSource
from sida.eval.measuring.protocol import load_protocol
from sida.eval.measuring.score import score_images
from sida.eval.measuring.source import ImageBatch
from sida.eval.measuring.stores import as_pixels, open_images
from sida.eval.results.exchange import exchanged
from sida.workflow.cli import main
from tests.data.test_archive import png, tar_of, write_folder, write_zip
from tests.eval.measuring.specs import noise
from tests.eval.metric_networks import images
from tests.near import is_copy, same_integers
from tests.plugins import needs
from tests.refused import command, refused


def encode(image: np.ndarray, mode: str | None = None, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    (picture.convert(mode) if mode else picture).save(stream, form)
    return stream.getvalue()


#: Files that systems leave behind, which are no pictures.
LITTER = dict.fromkeys((".DS_Store", "._img.png", "notes.txt"), b"x")


def write(path: Path, array: np.ndarray, labels: np.ndarray | None = None) -> Path:
    """Writes images in the form that the name of the path asks for."""
    members = {f"{i // 20:02d}/img{i:05d}.png": encode(image) for i, image in enumerate(array)}
    if labels is not None:
        members["dataset.json"] = json.dumps({"labels": [[n, int(c)] for n, c in zip(members, labels)]}).encode()
    name = path.name
    if name.endswith(".npz"):
        classes = {} if labels is None else {"arr_1": labels}
        (np.savez_compressed if "compressed" in name else np.savez)(path, arr_0=array, **classes)
    elif name.endswith(".npy"):
        np.save(path, {"first": array.transpose(0, 3, 1, 2), "grey": array[..., 0]}.get(path.stem, array))
    elif name.endswith(".zip"):
        write_zip(path, members | LITTER)
    elif ".tar" in name:
        packed = name.endswith("gz")  # else as in `tar cf a.tar -C FOLDER .`
        path.write_bytes(
            tar_of(members if packed else {f"./{n}": c for n, c in members.items()}, "w:gz" if packed else "w")
        )
    else:
        write_folder(path, members | LITTER)
    return path


KINDS = ["folder", "a.zip", "a.tar", "a.tar.gz", "a.npz", "compressed.npz", "a.npy"]


@pytest.mark.parametrize(("kind", "channels"), [*itertools.product(KINDS, (1, 3)), ("first.npy", 3), ("grey.npy", 1)])
def test_every_store_gives_the_same_images(tmp_path, kind, channels):
    array, labels = images(30, channels=channels), np.arange(30) % 7
    store = open_images(write(tmp_path / kind, array, None if kind.endswith("npy") else labels))
    assert store.count == 30
    first = array.transpose(0, 3, 1, 2)
    for begin, end in ((0, 30), (25, 30), (3, 5)):  # the last one backwards
        assert is_copy(store.read(begin, end), first[begin:end])
    if not kind.endswith("npy"):
        assert same_integers(store.classes, labels)
    assert len(store.digest) == 64


def test_a_folder_is_known_by_its_pictures_and_classes_and_not_by_their_times(tmp_path):
    def digest(seed: int, time: int, labels=None) -> str:
        members = {f"{number}.bmp": encode(picture, form="BMP") for number, picture in enumerate(images(3, seed=seed))}
        others = {"notes.txt": str(time).encode(), "dataset.json": json.dumps({"labels": labels}).encode()}
        write_folder(folder := tmp_path / f"{seed}-{time}", members | others)
        for name in members:
            os.utime(folder / name, (time, time))
        return open_images(folder).digest

    classes = [[f"{number}.bmp", number] for number in range(3)]
    assert digest(0, 1) == digest(0, 2) != digest(1, 1)
    assert digest(0, 1) != digest(0, 1, classes)


def test_images_of_sida_sample_are_read(tmp_path):
    draw = ["sample", "--sampler", "data", "--dataset", "digits", "--seeds", "0-7", "--out"]
    for out in (str(tmp_path / "png"), str(tmp_path / "drawn.npz")):
        assert main([*draw, out]) == 0
        assert open_images(out).count == 8


def read_all(path: Path, count: int = 20, allow_duplicates: bool = False) -> list[ImageBatch]:
    store = open_images(path)
    store.allow_duplicates = allow_duplicates
    return list(store.stream(0, count, 8))


def fault(path: Path, pattern: str) -> None:
    assert path.name in str(refused(pattern, read_all, path))


def test_wrong_size_mode_or_corrupt_file_is_named(tmp_path):
    folder = write(tmp_path / "folder", images(25))
    victim, twin = (folder / "00" / f"img000{number}.png" for number in ("13", "07"))
    good, frames = victim.read_bytes(), io.BytesIO()
    first, *others = map(Image.fromarray, images(3, seed=3))
    first.save(frames, "GIF", save_all=True, append_images=others)
    for content, told in (
        (encode(images(1, size=12)[0]), "is 12×12, the pictures before it 16×16"),
        (encode(images(1, channels=1)[0]), "is grey, the pictures before it RGB; convert"),
        (encode(images(1)[0], "RGBA"), "has mode RGBA; .*convert all pictures"),
        (b"P6 16 16\n65535\n" + bytes(2 * 16 * 16 * 3), "has more than 8 bits a value; convert all pictures to 8 bits"),
        (frames.getvalue(), "holds several frames; save each"),
        (good[: len(good) // 2], r"not a readable picture \([^<]*truncated\); replace or remove it"),
        (twin.read_bytes(), "is the same image as .*img00007.png; remove copies.*allow_duplicates=True"),
    ):
        victim.write_bytes(content)
        fault(folder, f"img00013.png: {told}")
    assert sum(len(batch.images) for batch in read_all(folder, allow_duplicates=True)) == 20


def test_arrays_that_are_no_images(tmp_path):
    path, pictures = tmp_path / "a.npz", images(20)
    for array, pattern in (
        (pictures / np.float32(255), "holds float32; save images as uint8"),
        (pictures.astype(np.int32), "holds int32; save images as uint8"),
        (np.zeros((20, 16, 16, 5), np.uint8), "1 or 3 channels"),
        (np.zeros((20, 16), np.uint8), r"images must be \(N, H, W, C\)"),
        (pictures[0], r"\(16, 16, 3\), that of one picture.*\(N, H, W, C\)"),
    ):
        np.savez(path, arr_0=array)
        fault(path, pattern)


def test_a_store_without_the_images_that_are_asked_for_is_named(tmp_path):
    fault(write(tmp_path / "few", images(7)), "holds 7 images, this trial needs 20; generate more")
    fault(tmp_path / "missing", "no such folder or file")
    (tmp_path / "a.txt").write_text("x")
    fault(tmp_path / "a.txt", "a.txt: is a text")
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.eye(3))
    fault(tmp_path / "b.npz", r"holds statistics \(mu, sigma\), no images; .*kind: statistics")
    np.savez(tmp_path / "b.npz", left=images(20), right=images(20))
    fault(tmp_path / "b.npz", r"no array 'arr_0' of images \(arrays of numbers: left, right\)")
    np.savez(tmp_path / "c.npz", arr_0=images(25), arr_1=np.arange(3))
    fault(tmp_path / "c.npz", r"arr_1.*\(3,\) as classes of 25 images")
    folder = write(tmp_path / "labels", images(25), np.arange(25))
    (folder / "dataset.json").write_text(json.dumps({"labels": [["00/img00000.png", 1]]}))
    fault(folder, "no label for 00/img00001.png")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (100, 400):
        path = tmp_path / f"{count}.npy"
        noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        np.save(path, noise)
        del noise
        source = open_images(path)
        tracemalloc.start()
        for batch in source.stream(0, count, 20):
            assert batch.images.shape[1:] == (3, 64, 64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


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
        "two batches with classes": [pairs[:16], pairs[16:]],
        "batches": (images[a : a + 8] for a in range(0, len(images), 8)),
    }


@pytest.mark.parametrize("form", forms(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64)))
def test_images_in_memory_are_the_same_pixels(form, digits):
    images, classes = digits[0][:32], digits[1][:32]
    pixels, labels = as_pixels(forms(images, classes)[form], (-1, 1))
    assert is_copy(pixels, images)
    assert labels is None or same_integers(labels, classes)
    bare = ("tensor", "floats", "list", "pictures", "batches", "one by one", "grey")
    assert (labels is None) == (form in bare)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (3, "cannot be read from int"),
        (np.zeros((2, 1, 8, 8), np.float32), "value_range"),
        (np.full((2, 1, 8, 8), 3.0), "range -1 to 1"),
        (np.full((2, 1, 8, 8), 1 + 2**-23, np.float32), "to 1.0000001, range -1 to 1"),
        (np.full((2, 1, 8, 8), -1 - 2**-50), "values -1.0000000000000009 to .*range -1 to 1"),
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


class OnceABatch(torch.nn.Module):
    """Images of one stream a batch."""

    def forward(self, seeds):
        stream = torch.Generator().manual_seed(seeds[0])
        return torch.randint(0, 256, (len(seeds), 1, 8, 8), generator=stream, dtype=torch.uint8)


class BatchStatistics(torch.nn.Module):
    """Images that are normalised over their batch, whose statistics hardly differ between large batches."""

    def forward(self, seeds):
        x = torch.stack(
            [torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed)) + seed % 7 for seed in seeds]
        )
        x = torch.nn.functional.batch_norm(x.repeat(1, 1, 4, 4), None, None, training=True)
        return (32 * x + 128).clamp(0, 255).to(torch.uint8)


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


def counted(number):
    return torch.randint(0, 256, (number, 1, 8, 8), dtype=torch.uint8)


def single(seed):
    return torch.randint(0, 256, (1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def of_numpy(seed):
    return np.random.RandomState(seed).randint(0, 256, (1, 8, 8)).astype(np.uint8)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (counted, "mine:sample: .* function of a list of seeds"),
        (single, "mine:sample: .* function of a list of seeds"),
        (of_numpy, "mine:sample: must return uint8 images"),
        (OnceABatch(), "in another batch; .*once a batch"),
        (BatchStatistics(), "in another batch; .*eval"),
        (unseeded, "the same seed must always give the same image"),
        (Needs, "needs width; "),
        (fails, r"fails \(.*test_images.py, line \d+: RuntimeError"),
        (low_precision, None),
        (Plain, None),
    ],
)
def test_a_generator_is_asked_for_a_part_again_in_another_batch(function, fault):
    def batches():
        return list(CallableSource("mine:sample", function=function).stream(0, 560, 140))

    if fault is None:
        assert len(batches()) == 4
    else:
        refused(fault, batches)


def test_images_sorted_by_class_are_dealt_where_an_option_says_so(tmp_path, digits):
    order = np.argsort(digits[1][:400], kind="stable")
    images, classes = digits[0][order], digits[1][order]
    np.savez(tmp_path / "labels.npz", arr_0=images, arr_1=classes)
    members = {f"c{label}/{n:05d}.png": png(image[0]) for n, (image, label) in enumerate(zip(images, classes))}
    write_folder(tmp_path / "folders", members)
    for name in ("labels.npz", "folders"):
        scored = score_images(tmp_path / name, "digits", num_samples=400, groups="classes")
        assert scored.values("is")[0] > 5
        assert {line["order"] for line in exchanged(scored.records)} == {"dealt, seed 0"}
        assert any("seed 0" in line for line in scored.warnings())
        kept = score_images(tmp_path / name, "digits", num_samples=400)
        assert "order" not in kept.records[0]["source"]
        # The splits of the score tell.
        assert any("--groups classes" in line for line in kept.warnings())
    # A protocol without splits tells of several trials.
    for trials in (1, 2):
        scored = score_images(
            tmp_path / "labels.npz", load_protocol("digits").part(["fd"]), num_samples=200, trials=trials
        )
        assert any("--groups classes" in line for line in scored.warnings()) == (trials == 2)


@pytest.mark.parametrize("scope", [{}, {"__name__": "cell_1"}, {"__name__": None}])
def test_a_function_of_no_module_is_known_by_its_code(scope):
    """As cells of notebooks, cloudpickle and exec make them."""
    made = []
    for level in (3, 3, 4):
        exec(f"def draw(seeds, level={level}): return {level} + len(seeds)", space := dict(scope))
        made.append(space["draw"])
    digests = [CallableSource("mine", function=function).identity()["source_sha256"] for function in made]
    assert digests[0] == digests[1] != digests[2]


#: Commands whose files are unfit, and what they are told.
UNFIT = {
    "few --like table1": "few: holds 3 images, protocol 'cifar10' takes 50,000; .*--num-samples 3",
    "few --protocol cifar10 --trials 2": "few: holds 3 images.* 50,000 for each of 2 trials",
    "few --protocol imagenet64 --num-samples 9": "few: images have 3 channels of 32×32, .*64×64",
    "missing/ --protocol cifar10": "missing/: no such file or folder",
    "few --protocol cifra10": "no protocol 'cifra10'.*cifar10",
    "few --like table111": "table111",
    "words.txt --protocol cifar10": "words.txt: ",
    "empty --protocol cifar10": "empty: ",
    "floats.npz --protocol cifar10": "floats.npz.*float32",
    "few --protocol cifar10 --num-samples 1": "--num-samples: must be at least 2",
    "program.pt2 --protocol cifar10": "program.pt2: a file of torch.export takes latents; add --latent",
    "other.pt2 --protocol cifar10 --latent 8": "other.pt2: is not a file of torch.export.save",
    "few --protocol cifar10 --latent 8": "--latent: is for files of torch.export",
    "few --protocol ffhq64 --num-samples 3": "few: images have 3 channels of 32×32, .*64×64",
    "few deep": "deep: one set of images .*--against deep",
    "few --against empty": "empty: holds no pictures",
    "deep --against few --protocol pair-pixels": "deep: a.png: has more than 8 bits",
    "few --against few --trials 2": "--trials 2: two sets are compared as a whole",
    "few --against few --protocol pair-quick": r"few: has too few images \(.*3 images\); give more images",
    "few --against few --num-samples 9": "few: holds 3 images.*--num-samples 3",
    "few --against few --saw loss:incepton": "saw: .*'inception'",
    "-few --against few": "-few: begins with a hyphen.*write ./-few",
    "few --against -few": "-few: begins with a hyphen",
    "new a --data few --channels 4": "channels: must be one of 1, 3",
    "new a --data few --labels no": "labels: must be one of auto, folders, none",
    "data check digitss": "no data set 'digitss'.*did you mean",
    "data check empty": "empty: holds no pictures",
    "data check floats.npz": "floats.npz: is arrays.*sida data prepare --source floats.npz",
    "new a --data empty --cores 2": "empty: holds no pictures",
    "new a --data few --gpu 4090": "--gpu 4090: not in config/plan.yaml .*RTX4090",
}


def _plugins_of(words):
    return ["planner"] * words.startswith("new ") + ["judges"] * ("pair-quick" in words)


@pytest.fixture(scope="module")
def unfit_files(tmp_path_factory):
    """A folder with images that some protocol or command cannot take."""
    folder = tmp_path_factory.mktemp("unfit")
    pictures = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for name in ("few", "-few"):
        write_folder(folder / name, {f"{i}.png": encode(image) for i, image in enumerate(pictures)})
    (folder / "empty").mkdir()
    write_folder(folder / "deep", dict.fromkeys(["a.png", "b.png"], encode(np.zeros((32, 32), np.uint16))))
    (folder / "words.txt").write_text("a cat")
    np.savez(folder / "floats.npz", arr_0=np.zeros((4, 32, 32, 3), np.float32))
    for name, member in (("program", "program/archive_format"), ("other", "other/version")):
        with zipfile.ZipFile(folder / f"{name}.pt2", "w") as file:
            file.writestr(member, "pt2")
    return folder


@pytest.mark.parametrize("words", [pytest.param(words, marks=needs(*_plugins_of(words))) for words in UNFIT])
def test_images_that_cannot_be_scored_or_prepared_are_one_line(unfit_files, monkeypatch, words):
    monkeypatch.chdir(unfit_files)
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    arguments = words.split() if words.startswith(("data ", "new ")) else ["score", *words.split()]
    refused(UNFIT[words], command, *arguments)
