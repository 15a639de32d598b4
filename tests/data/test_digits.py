import importlib.util
import sys

import numpy as np
import pytest
import torch

from sida.config.datasets import dataset_spec
from sida.data import load, load_dataset
from sida.data.load import digits_of_split, shuffled_digits
from sida.errors import UserError
from tools.train_backbone import BackboneTraining
from tools.train_digits import DigitsTraining
from tools.train_digits import split as measuring_split

SPEC = {"name": "digits", "kind": "digits"}


def test_digits_are_the_scikit_learn_ones_as_networks_see_them():
    data = load_dataset(SPEC)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    batch = data.images(range(len(data)))
    assert batch.shape == (1797, 1, 8, 8)
    assert batch.dtype == torch.uint8
    assert (data.num_channels, data.resolution, data.label_dim, data.name) == (1, 8, 10, "digits")
    assert data.network_shape == (1, 8, 8)
    seen = data.network_input(batch)[:, 0].numpy()
    np.testing.assert_allclose(seen, bunch.images / 8 - 1, atol=0.5 / 127.5 + 1e-6)
    assert seen.min() == -1
    assert seen.max() == 1
    labels = data.labels(torch.arange(len(data)))
    np.testing.assert_array_equal(labels.argmax(1), bunch.target)
    assert torch.equal(labels.sum(1), torch.ones(1797))
    np.testing.assert_array_equal(data.class_indices, bunch.target)


def test_they_are_read_without_starting_scikit_learn_and_the_same_where_its_files_lie_elsewhere(monkeypatch):
    load._read_digits.cache_clear()
    packages = dict(sys.modules)
    for name in packages:
        if name.partition(".")[0] == "sklearn":
            monkeypatch.delitem(sys.modules, name)
    read = load._read_digits()
    assert not any(name.startswith("sklearn.") for name in sys.modules)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load._read_digits.cache_clear()
    for one, other in zip(read, load._read_digits()):
        # The layout decides how training rounds.
        assert (one.dtype, one.strides) == (other.dtype, other.strides)
        np.testing.assert_array_equal(one, other)


def test_returned_batches_are_private_copies():
    data = load_dataset(SPEC)
    before = data.images([5]).clone()
    data.images([5]).zero_()
    assert torch.equal(data.images([5]), before)


def test_splits_share_no_image_and_make_up_the_whole():
    whole, train, held_out = (load_dataset(SPEC | {"split": split}) for split in ("all", "train", "held-out"))
    assert (len(train), len(held_out)) == (1497, 300)
    pixels = [{image.tobytes() for image in data.images(range(len(data))).numpy()} for data in (whole, train, held_out)]
    assert not pixels[1] & pixels[2]  # no two digits of the set are equal
    assert pixels[1] | pixels[2] == pixels[0]
    assert torch.bincount(held_out.class_indices).tolist() == [30] * 10


def test_images_of_a_split_keep_their_labels_order_and_views():
    whole = load_dataset(SPEC)
    for split in ("train", "held-out"):
        data, indices = load_dataset(SPEC | {"split": split}), digits_of_split(split)
        assert (np.diff(indices) > 0).all()
        assert torch.equal(data.images(range(len(data))), whole.images(indices))
        assert torch.equal(data.labels(range(len(data))), whole.labels(indices))
        part = load_dataset(SPEC | {"split": split, "max_size": 40, "labels": False, "xflip": True})
        assert (len(part), part.raw_count, part.label_dim) == (80, len(indices), 0)
        assert part.sha256 == data.sha256


def test_splits_are_the_same_for_ever_and_the_whole_keeps_its_digest():
    digests = [load_dataset(SPEC | {"split": split}).sha256[:16] for split in ("all", "train", "held-out")]
    assert digests == ["0b7e9c3202d7bcd2", "9a2592064ba43121", "811b39bfae892035"]
    assert load_dataset(SPEC).sha256 == load_dataset(SPEC | {"max_size": 10, "split": "all"}).sha256
    named = [dataset_spec(name, "here") for name in ("digits-train", "digits-heldout")]
    assert [load_dataset(spec).sha256[:16] for spec in named] == digests[1:]


def test_no_held_out_digit_trained_the_measuring_network_and_the_backbone_saw_them_all():
    held_out = set(digits_of_split("held-out").tolist())
    measuring, _ = measuring_split(DigitsTraining())
    assert not held_out & set(measuring.tolist())
    assert held_out <= set(shuffled_digits()[: BackboneTraining().images].tolist())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"split": "heldout"}, 'split: must be one of all, train, held-out, got "heldout"'),
        ({"kind": "zip", "path": "x.zip", "split": "train"}, "split: a data set of kind 'zip' has none"),
        ({"pth": "x"}, "pth: unknown key \\(did you mean 'path'"),
        ({"label_dim": -1}, "label_dim: must be 0 or more"),
        ({"path": "x.zip"}, "path: .*remove this key"),
        ({"sha256": "00"}, "sha256: digits has"),
    ],
)
def test_bad_specs_are_one_line_errors(extra, message):
    with pytest.raises(UserError, match=message):
        load_dataset(SPEC | extra)


def test_the_whole_set_is_the_arrays_themselves():
    """A copy has another layout in memory; convolutions then round otherwise, and the demo's table changes."""
    images = load._read_digits()[0]
    assert load.Digits().raw_images(np.arange(4)).strides == images[np.arange(4)].strides
    assert np.shares_memory(load.Digits().pixels, images)
