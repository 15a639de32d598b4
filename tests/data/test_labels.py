"""Class counts as files, of an asset's labels, and against an archive at hand."""

import json

import pytest

from sida.config.datasets import LabelCounts, load_labels
from sida.data import load, load_dataset
from sida.data.load import check_labels, counts_of
from sida.errors import UserError
from tests.refused import refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "x", "images": 4, "counts": [1, 2]}', "images: says 4, but .* sum to 3"),
        ('{"name": "x", "images": 0, "counts": [0]}', "at least 1"),
        ('{"name": "x", "images": 3, "count": [3]}', "count: .*did you mean 'counts'"),
    ],
)
def test_broken_counts_are_one_line(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    refused(message, load_labels, tmp_path / "x.json")
    refused("no class counts '.*y.json'; .*config/labels/cifar10.json", load_labels, tmp_path / "y.json")


def test_a_digest_of_counts_is_that_of_the_counts():
    counts = (3, 1, 5)
    assert LabelCounts("y", 9, counts).sha256 == LabelCounts("x", 9, counts, "somewhere").sha256
    assert LabelCounts("x", 9, counts).sha256 != LabelCounts("x", 9, (3, 2, 4)).sha256
    cifar10 = load_labels("cifar10")
    assert (cifar10.images, cifar10.counts) == (50_000, (5_000,) * 10)


def test_classes_of_an_asset_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "fetch", lambda name: tmp_path / "dataset.json")
    for labels, told in (("null", "names no classes"), ('[["0.png", [0.5, 1]]]', "whole number")):
        (tmp_path / "dataset.json").write_text(f'{{"labels": {labels}}}')
        refused(f"dataset.json: .*{told}", counts_of, "labels-imagenet")
    pairs = [[f"{index}.png", label] for index, label in enumerate([0, 2, 2, 0, 2])]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    assert counts_of("labels-imagenet").counts == (2, 0, 3)


def test_an_archive_at_hand_must_have_the_counted_classes(tmp_path):
    digits = {"name": "digits", "kind": "digits"}
    counts = load_dataset(digits).class_indices.bincount().tolist()
    # Half of the data are still those data: what is compared is the whole set.
    check_labels(LabelCounts("digits", 1797, tuple(counts)), {**digits, "max_size": 100, "xflip": True}, "here")
    missing = {"name": "x", "kind": "zip", "path": str(tmp_path / "missing.zip")}
    check_labels(LabelCounts("x", 3, (3,)), missing, "here")
    counts[7] -= 1
    with pytest.raises(UserError, match=r"^here: digits has other numbers of 1 classes .* first of class 7"):
        check_labels(LabelCounts("digits", 1796, tuple(counts)), digits, "here")
