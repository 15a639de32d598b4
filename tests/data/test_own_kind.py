"""Data of one's own: a kind named ``module:function`` (docs/examples/gratings.py)."""

import json

import pytest
import torch

from sida.cli.main import main
from sida.data import load_dataset
from sida.errors import UserError

GRATINGS = {"name": "gratings", "kind": "docs.examples.gratings:open_gratings"}


def test_own_kind_is_a_data_set_with_every_view():
    data = load_dataset({**GRATINGS, "label_dim": 4, "resolution": 8, "num_images": 1024})
    assert data.images([0, 1]).dtype == torch.uint8
    assert data.labels([0, 1, 2, 3]).argmax(1).tolist() == [0, 1, 2, 3]
    mirrored = load_dataset({**GRATINGS, "max_size": 10, "xflip": True})
    assert len(mirrored) == 20
    assert torch.equal(mirrored.images([10]), mirrored.images([0]).flip(3))
    assert load_dataset({**GRATINGS, "label_dim": 0}).label_dim == 0


def test_a_teacher_trains_on_it(tmp_path):
    spec = {"name": "tiny", "dataset": GRATINGS, "total_kimg": 0.064, "batch_size": 32, "lr": 1e-3}
    kwargs = {"img_resolution": 8, "img_channels": 1, "label_dim": 4, "model_channels": 8, "channel_mult": [1]}
    kwargs |= {"model_type": "SongUNet", "num_blocks": 1, "attn_resolutions": []}
    spec["network"] = {"class": "EDMPrecond", "kwargs": kwargs}
    assert main(["train-teacher", "--spec", json.dumps(spec), "--out", str(tmp_path / "teacher")]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "docs.examples.gratings:open_grating"}, r"open_grating'.*did you mean 'open_gratings'"),
        ({"kind": "docs.examples.gratings:grating"}, r"cannot be called as function\(config, \*\*views\)"),
        ({"kind": "gratings"}, r"kind: must be one of digits, .*got \"gratings\""),
    ],
)
def test_fault_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        load_dataset({**GRATINGS, **changes})
