"""Losses without options, and what becomes of NaNs."""

import pytest

from sida.methods import METHODS
from sida.plugins.rivals.consistency import ECTLoss
from sida.plugins.rivals.dmd import DMD2Loss
from sida.plugins.rivals.f_distill import FDistillLoss
from sida.plugins.rivals.realuid import RealSiDLoss, RealUIDLoss
from sida.plugins.rivals.uni_instruct import UniInstructLoss
from tests.methods.test_properties import leaves_no_sample_of_nan, leaves_out_nan


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ect", ECTLoss),
        ("dmd2", DMD2Loss),
        ("f-distill", FDistillLoss),
        ("realuid", RealUIDLoss),
        ("realsid", RealSiDLoss),
    ],
)
def test_a_loss_without_options_has_its_methods_defaults(name, loss):
    options = METHODS[name].options()
    assert loss().options == options
    if name == "f-distill":
        assert len(loss().means) == options.bins


@pytest.mark.parametrize("ratio", ["released", "logits"])
def test_a_batch_of_nan_alone_leaves_no_sample(ratio):
    leaves_no_sample_of_nan(UniInstructLoss(ratio=ratio))


@pytest.mark.parametrize("where", ["images", "real", "logits", "real logits"])
def test_a_sample_with_nan_is_left_out_of_all_terms(monkeypatch, where):
    leaves_out_nan(UniInstructLoss(ratio="logits"), where, monkeypatch)
