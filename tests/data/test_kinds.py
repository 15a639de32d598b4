"""Data sets that are no archive: the digits, classes alone, enough for SiD, and kinds of one's own."""

import json
import sys

import numpy as np
import pytest
import torch

from sida.config.datasets import dataset_spec
from sida.config.labels import LabelCounts, load_labels
from sida.data import load, load_dataset
from sida.data.archive import dataset_json
from sida.data.load import check_labels, counts_of, digits_of_split
from sida.methods import distill
from sida.networks.file import save_network
from tests.data.test_archive import write_counts
from tests.near import is_copy
from tests.networks.made import random_network
from tests.refused import refused
from tests.training.toy import NETWORK, SID_STUDENT, STUDENT
from tools.train_digits import DigitsTraining
from tools.train_digits import split as measuring_split

SPEC = {"name": "digits", "kind": "digits"}


def test_digits_are_read_as_they_lie_without_starting_scikit_learn(monkeypatch):
    """A copy has another layout in memory; convolutions then round otherwise, and the demo's table changes."""
    load._read_digits.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    images, _ = load._read_digits()
    assert not any(name.startswith("sklearn.") for name in sys.modules)
    assert images.strides == (64, 0, 8, 1)
    assert np.shares_memory(load.Digits().pixels, images)


def test_images_of_a_split_keep_their_labels_and_order_and_batches_are_private_copies():
    whole = load_dataset(SPEC)
    before = whole.images([5]).clone()
    whole.images([5]).zero_()
    assert is_copy(whole.images([5]), before)
    for split in ("train", "held-out"):
        data, indices = load_dataset(SPEC | {"split": split}), digits_of_split(split)
        assert (np.diff(indices) > 0).all()
        assert is_copy(data.images(range(len(data))), whole.images(indices))
        assert is_copy(data.labels(range(len(data))), whole.labels(indices))


def test_pixels_classes_and_splits_are_the_same_for_ever():
    digests = [load_dataset(SPEC | {"split": split}).sha256[:16] for split in ("all", "train", "held-out")]
    assert digests == ["0b7e9c3202d7bcd2", "9a2592064ba43121", "811b39bfae892035"]
    data = load_dataset(SPEC | {"max_size": 10, "split": "all"})
    assert (data.num_channels, data.resolution, data.label_dim, data.name) == (1, 8, 10, "digits")
    assert load_dataset(SPEC).sha256 == data.sha256
    named = [dataset_spec(name, "here") for name in ("digits-train", "digits-heldout")]
    assert [load_dataset(spec).sha256[:16] for spec in named] == digests[1:]


def test_an_entry_may_say_that_it_has_no_path_and_must_say_something():
    assert dataset_spec("x", "here", {"x": {"kind": "digits", "path": None}})["path"] is None
    assert refused("must be a mapping", dataset_spec, "x", "here", {"x": None}).where == "here: x"


def test_no_held_out_digit_trained_the_measuring_network():
    """The backbone saw what that network did not: tests/networks/test_discriminators.py."""
    measuring, _ = measuring_split(DigitsTraining())
    assert not set(digits_of_split("held-out").tolist()) & set(measuring.tolist())


COUNTS = {"name": "digits", "kind": "counts", "resolution": 8, "channels": 1, "label_dim": 10, "num_images": 200}


@pytest.fixture
def counted(tmp_path):
    write_counts(tmp_path / "counts.json", "digits", [110, *[10] * 9])
    return COUNTS | {"counts": str(tmp_path / "counts.json")}


def test_classes_have_the_frequencies_of_the_counts_and_no_images(counted):
    dataset = load_dataset(counted)
    assert dataset.labels(range(200)).sum(0).tolist() == [110, *[10] * 9]
    assert dataset.network_shape == (1, 8, 8)
    refused("data set digits: has classes and no images", dataset.images, [0])
    none = load_dataset(COUNTS | {"counts": "none", "label_dim": 0})
    assert (len(none), none.label_dim) == (200, 0)
    fewer = load_dataset(COUNTS | {"counts": "none", "num_images": 100, "label_dim": 0})
    assert len({none.sha256, dataset.sha256, fewer.sha256}) == 3


def test_sid_is_distilled_from_class_counts_and_sida_says_that_it_needs_images(counted, tmp_path):
    save_network(random_network(NETWORK["class"], NETWORK["kwargs"]), tmp_path / "teacher.safetensors", {})
    short = {"dataset": counted, "teacher": str(tmp_path / "teacher.safetensors"), "total_kimg": 0.05, "pictures": 0}
    short |= {"evaluation": None, "augment": None}
    distill(SID_STUDENT | short, tmp_path / "student")
    assert (tmp_path / "student/network.safetensors").is_file()
    refused("has classes and no images", distill, STUDENT | short, tmp_path / "sida")


# Class counts as files, of an asset's labels, and against a set at hand


def test_broken_counts_are_one_line(tmp_path):
    for counts, message in (
        ({"images": 4, "counts": [1, 2]}, "images: says 4, but .* sum to 3"),
        ({"images": 0, "counts": [0]}, "at least 1"),
        ({"images": 3, "count": [3]}, "count: .*did you mean 'counts'"),
    ):
        (tmp_path / "x.json").write_text(json.dumps({"name": "x", **counts}))
        refused(message, load_labels, tmp_path / "x.json")


def test_an_asset_without_classes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "fetch", lambda name: tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text(dataset_json(None))
    refused("dataset.json: .*names no classes", counts_of, "labels-imagenet")


def test_the_whole_set_at_hand_is_compared_with_counts():
    """Also where a spec takes a part of it."""
    counts = load_dataset(SPEC).class_indices.bincount().tolist()
    check_labels(LabelCounts("digits", 1797, tuple(counts)), SPEC | {"max_size": 100, "xflip": True}, "here")


GRATINGS = {"name": "gratings", "kind": "docs.examples.gratings:open_gratings"}


def test_own_kind_is_a_data_set():
    data = load_dataset({**GRATINGS, "label_dim": 4, "resolution": 8, "num_images": 1024})
    assert data.images([0, 1]).dtype == torch.uint8
    assert data.labels([0, 1, 2, 3]).argmax(1).tolist() == [0, 1, 2, 3]
    assert load_dataset({**GRATINGS, "label_dim": 0}).label_dim == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPEC | {"split": "heldout"}, 'split: must be one of all, train, held-out, got "heldout"'),
        (SPEC | {"kind": "zip", "path": "x.zip", "split": "train"}, "split: a data set of kind 'zip' has none"),
        (SPEC | {"pth": "x"}, "pth: unknown key \\(did you mean 'path'"),
        (SPEC | {"label_dim": -1}, "label_dim: must be 0 or more"),
        (SPEC | {"path": "x.zip"}, "path: .*remove this key"),
        (SPEC | {"sha256": "00"}, "sha256: digits has"),
        (COUNTS, "counts: .*resolution"),
        (GRATINGS | {"kind": "docs.examples.gratings:grating"}, r"kind: fails \(docs/examples/gratings.py, line"),
        (GRATINGS | {"kind": "gratings"}, r"kind: must be one of digits, .*got \"gratings\""),
    ],
)
def test_bad_specs_are_one_line_errors(spec, message):
    refused(message, load_dataset, spec)
