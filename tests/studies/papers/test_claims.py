"""Numbers that claims state are counted again."""

import pytest
import torch

from sida.config.lookup import ROOT
from sida.eval.claims.claim import load_claims
from sida.eval.claims.evidence import Evidence
from sida.eval.results.measurements import Measurements
from sida.methods.gdd import freeze_innate
from sida.methods.registry import recipe_of
from sida.methods.sid import SiDALoss, SiDLoss
from sida.networks import EDMPrecond, build_network
from sida.training.iteration import Distiller
from sida.training.schedule import Schedule


@pytest.fixture(scope="module")
def stated():
    """Pairs of stated values by claim."""
    claims = {claim.id: claim for claim in load_claims(ROOT / "studies/papers/claims.py").claims}

    def stated(name):
        findings = claims[name].findings(Evidence(Measurements([]), {}))
        pairs = ([operand.value for operand in finding.operands] for finding in findings)
        return [(a, b) for a, b in pairs if a is not None]

    return stated


def test_sida_trains_as_many_parameters_as_sid():
    counts = []
    for loss in (SiDLoss(), SiDALoss()):
        networks = [EDMPrecond(img_resolution=8, img_channels=1, label_dim=0, model_channels=16) for _ in range(3)]
        distiller = Distiller(*networks, loss, Schedule(), recipe_of())
        counts.append([distiller.fake_score.flat.vector.numel(), distiller.generator.flat.vector.numel()])
    assert counts[0] == counts[1]
    assert counts[0] == [sum(p.numel() for p in networks[0].parameters())] * 2


NCSNPP = {
    "model_type": "SongUNet", "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1], "model_channels": 128, "channel_mult": [2, 2, 2], "augment_dim": 9,
    "img_resolution": 32, "img_channels": 3,
}  # fmt: skip
ADM = {
    "model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4], "img_resolution": 64,
    "img_channels": 3, "label_dim": 1000,
}  # fmt: skip


@pytest.mark.parametrize(("number", "network"), enumerate([NCSNPP, ADM]))
def test_gdd_i_freezes_the_stated_parameters(stated, number, network):
    with torch.device("meta"):
        net = build_network({"class": "GDDPrecond", "kwargs": network})
    freeze_innate(net)
    frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert stated("C-65")[number] == (frozen, sum(p.numel() for p in net.parameters()))
