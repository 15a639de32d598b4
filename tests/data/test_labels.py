"""Class counts: from every kind of source without reading a picture, as files, and against an archive at hand."""

import io
import json
import tarfile

import pytest

from sida.config.datasets import LabelCounts, find_labels, load_labels, write_labels
from sida.data import load_dataset
from sida.data.load import check_labels, count_labels
from sida.errors import UserError
from tests.data.test_archive import tar_of, write_folder, zip_of
from tests.refused import command, refusal, refused

CLASSES = {"n01440764": 3, "n01443537": 1, "n01484850": 5}
COUNTS = (3, 1, 5)
# Nothing here could be decoded: counting reads no picture.
NAMES = [f"{folder}/{folder}_{i}.JPEG" for folder, count in CLASSES.items() for i in range(count)]
LABELS = {"labels": [[f"00000/img{i:08d}.png", sorted(CLASSES).index(n.split("/")[0])] for i, n in enumerate(NAMES)]}


def content(names):
    return dict.fromkeys(names, b"no picture")


TAR = tar_of(content(f"./train/{name}" for name in ["README", "n01440764/._0.JPEG", *NAMES]))
TARS = {f"{name}.tar": tar_of(content(f"{name}_{i}.JPEG" for i in range(CLASSES[name]))) for name in CLASSES}
ZIP = zip_of(content(name for name, _ in LABELS["labels"]) | {"dataset.json": json.dumps(LABELS)})
SOURCES = {
    "train.tar": TAR,
    "ILSVRC2012_img_train.tar": tar_of(dict(reversed(TARS.items()))),
    "imagenet.zip": ZIP,
    "dataset.json": json.dumps(LABELS).encode(),
}


@pytest.mark.parametrize("name", ["train", *SOURCES])
def test_every_source_gives_the_same_counts(name, tmp_path):
    if name == "train":
        write_folder(tmp_path / name, content(["LOC_synset_mapping.txt", *NAMES]))
    else:
        (tmp_path / name).write_bytes(SOURCES[name])
    labels = count_labels(tmp_path / name, "imagenet")
    assert (labels.name, labels.images, labels.counts) == ("imagenet", 9, COUNTS)
    assert name in labels.source


def test_classes_are_numbered_as_they_are_prepared(tmp_path):
    names = [f"{folder}/{i}.png" for folder, count in {"10": 3, "1": 1, "2": 2}.items() for i in range(count)]
    (tmp_path / "x.tar").write_bytes(tar_of(content(names)))
    assert count_labels(tmp_path / "x.tar", "x").counts == (1, 2, 3)
    refused("holds archives", count_labels, tmp_path, "x")


def test_a_tars_index_is_read_without_its_content(tmp_path):
    path = tmp_path / "large.tar"
    with open(path, "wb") as stream:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = 1 << 30
            stream.write(info.tobuf())
            stream.seek(info.size, io.SEEK_CUR)
        stream.write(bytes(1024))
    assert path.stat().st_size > 9 << 30
    assert count_labels(path, "large").counts == COUNTS


def test_the_command_writes_a_file_that_protocols_read(tmp_path, monkeypatch):
    out = tmp_path / "labels" / "mine.json"
    (tmp_path / "train.tar").write_bytes(TAR)
    monkeypatch.chdir(tmp_path)
    given = ("data", "labels", "train.tar", "--out")
    assert "3 classes of 1 to 5 images, 9 in all" in command(*given, out, "--expect", 9)
    assert load_labels(out).counts == COUNTS
    assert "expected 1000" in refusal(command, *given, "other.json", "--expect-classes", 1000)
    assert not (tmp_path / "other.json").exists()
    assert find_labels("train") is None
    command(*given, "train")
    assert load_labels("train").counts == COUNTS


COUNT = lambda path: count_labels(path, "x")


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (COUNT, "x.tar", "short", "not a whole zip or tar archive"),
        (COUNT, "x.json", '{"labels": null}', "names no classes"),
        (COUNT, "x.json", '{"labels": [["a.png", [0.5, 1]]]}', "whole number.*labels' to null"),
        (load_labels, "x.json", '{"name": "x", "images": 4, "counts": [1, 2]}', "images: says 4, but .* sum to 3"),
        (load_labels, "x.json", '{"name": "x", "images": 0, "counts": [0]}', "at least 1"),
        (load_labels, "x.json", '{"name": "x", "images": 3, "count": [3]}', "count: .*did you mean 'counts'"),
        (load_labels, "y.json", "", r"no class counts '.*x.json'; .*sida data labels SOURCE --out"),
    ],
)
def test_sources_without_classes_and_broken_counts_are_one_line(tmp_path, read, name, content, message):
    (tmp_path / name).write_text(content)
    refused(message, read, tmp_path / name.replace("y", "x"))


def test_files_of_counts_travel_and_their_digest_is_that_of_the_counts(tmp_path):
    labels = LabelCounts("x", 9, COUNTS, "somewhere")
    write_labels(tmp_path / "x.json", labels)
    assert load_labels(tmp_path / "x.json") == labels
    assert LabelCounts("y", 9, COUNTS).sha256 == labels.sha256 != LabelCounts("x", 9, (3, 2, 4)).sha256
    cifar10 = load_labels("cifar10")
    assert (cifar10.images, cifar10.counts) == (50_000, (5_000,) * 10)


def test_an_archive_at_hand_must_have_the_counted_classes(tmp_path):
    digits = {"name": "digits", "kind": "digits"}
    counts = load_dataset(digits).class_indices.bincount().tolist()
    # Half of the data are still those data: what is compared is the whole set.
    check_labels(LabelCounts("digits", 1797, tuple(counts)), {**digits, "max_size": 100, "xflip": True}, "here")
    missing = {"name": "x", "kind": "zip", "path": str(tmp_path / "missing.zip")}
    check_labels(LabelCounts("x", 3, (3,)), missing, "here")
    counts[7] -= 1
    with pytest.raises(UserError, match=r"^here: digits has 179 images of class 7, .* say 178 \(1 classes differ\)"):
        check_labels(LabelCounts("digits", 1796, tuple(counts)), digits, "here")
