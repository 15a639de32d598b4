"""Data sets of other kinds: classes alone, enough for SiD, which sees no image; and a kind of one's own."""

from __future__ import annotations

import pytest
import torch

from sida.config.datasets import LabelCounts, write_labels
from sida.data import load_dataset
from sida.errors import UserError
from sida.methods import distill
from sida.training import train_teacher
from tests.training.toy import TEACHER

SPEC = {"name": "digits", "kind": "counts", "resolution": 8, "channels": 1, "label_dim": 10, "num_images": 200}


@pytest.fixture
def counted(tmp_path):
    write_labels(tmp_path / "counts.json", LabelCounts("digits", 200, (110, *[10] * 9)))
    return SPEC | {"counts": str(tmp_path / "counts.json")}


def test_classes_have_the_frequencies_of_the_counts_and_no_images(counted):
    dataset = load_dataset(counted)
    assert dataset.labels(range(200)).sum(0).tolist() == [110, *[10] * 9]
    assert dataset.network_shape == (1, 8, 8)
    with pytest.raises(UserError, match="data set digits: has classes and no images"):
        dataset.images([0])
    none = load_dataset(SPEC | {"counts": "none", "label_dim": 0})
    assert (len(none), none.label_dim) == (200, 0)
    fewer = load_dataset(SPEC | {"counts": "none", "num_images": 100, "label_dim": 0})
    assert len({none.sha256, dataset.sha256, fewer.sha256}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 201}, "num_images: .*has 200, the spec says 201"),
        ({"counts": None}, "counts: a data set of this kind"),
    ],
)
def test_faults_are_told(counted, change, message):
    with pytest.raises(UserError, match=message):
        load_dataset(counted | change)


def test_sid_is_distilled_from_class_counts_and_sida_says_that_it_needs_images(counted, tmp_path):
    train_teacher(TEACHER | {"total_kimg": 0.05}, tmp_path / "teacher")
    student = {
        "name": "toy", "method": "sid", "dataset": counted, "teacher": str(tmp_path / "teacher/network.safetensors"),
        "total_kimg": 0.05, "batch_size": 16, "lr": 1e-3, "augment": None, "pictures": 0,
    }  # fmt: skip
    distill(student, tmp_path / "student")
    assert (tmp_path / "student/network.safetensors").is_file()
    with pytest.raises(UserError, match="has classes and no images"):
        distill(student | {"method": "sida"}, tmp_path / "sida")


GRATINGS = {"name": "gratings", "kind": "docs.examples.gratings:open_gratings"}


def test_own_kind_is_a_data_set_with_every_view():
    data = load_dataset({**GRATINGS, "label_dim": 4, "resolution": 8, "num_images": 1024})
    assert data.images([0, 1]).dtype == torch.uint8
    assert data.labels([0, 1, 2, 3]).argmax(1).tolist() == [0, 1, 2, 3]
    mirrored = load_dataset({**GRATINGS, "max_size": 10, "xflip": True})
    assert len(mirrored) == 20
    assert torch.equal(mirrored.images([10]), mirrored.images([0]).flip(3))
    assert load_dataset({**GRATINGS, "label_dim": 0}).label_dim == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "docs.examples.gratings:grating"}, r"cannot be called as function\(config, \*\*views\)"),
        ({"kind": "gratings"}, r"kind: must be one of digits, .*got \"gratings\""),
    ],
)
def test_fault_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        load_dataset({**GRATINGS, **changes})
