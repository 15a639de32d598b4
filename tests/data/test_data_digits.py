import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sida.data import load_dataset
from sida.errors import UserError

SPEC = {"name": "digits", "kind": "digits"}


def test_digits_are_the_scikit_learn_ones_as_networks_see_them():
    data = load_dataset(SPEC)
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


def test_unconditional_digits_have_labels_of_width_zero():
    for extra in ({"labels": False}, {"label_dim": 0}):
        data = load_dataset(SPEC | extra)
        assert data.label_dim == 0
        assert data.labels([3, 4]).shape == (2, 0)
        with pytest.raises(UserError, match="no class labels"):
            _ = data.class_indices


def test_returned_batches_are_private_copies():
    data = load_dataset(SPEC)
    before = data.images([5]).clone()
    data.images([5]).zero_()
    assert torch.equal(data.images([5]), before)


def test_digest_is_stable_across_views():
    digest = load_dataset(SPEC).sha256
    assert len(digest) == 64
    assert load_dataset(SPEC | {"max_size": 10, "sha256": digest}).sha256 == digest


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"pth": "x"}, "unknown key 'pth' \\(did you mean 'path'"),
        ({"kind": "digit"}, "kind: must be one of digits, zip, folder"),
        ({"resolution": 32}, "resolution: digits has 8, the spec says 32"),
        ({"channels": 3}, "channels: digits has 1"),
        ({"label_dim": 9}, "label_dim: digits has 10"),
        ({"label_dim": -1}, "label_dim: must be 0 or more"),
        ({"max_size": 0}, "max_size: must be at least 1"),
        ({"path": "x.zip"}, "path: the digits are embedded"),
        ({"kind": "zip"}, "path: a data set of kind 'zip' needs one"),
        ({"sha256": "00"}, "sha256: digits has"),
    ],
)
def test_bad_specs_are_one_line_errors(extra, message):
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(SPEC | extra)
    assert "\n" not in str(caught.value)
