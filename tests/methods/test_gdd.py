"""GDD's GAN losses on the recorded generator and two-headed discriminator."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sida.methods.gdd import GDDLoss, lazy_regularisation
from sida.networks import build_network
from tests.golden.vectors import GOLDEN, relative_error
from tests.methods.loss_cases import VALUE, compare_gradients, tensors


class TwoHeads(nn.Module):
    """The discriminator described in the golden file."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.h1, self.h2 = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 1, 1)

    def forward(self, images, class_labels=None):
        first = F.leaky_relu(self.c1(images), 0.2)
        second = F.leaky_relu(self.c2(first), 0.2)
        return [self.h1(first).reshape(-1, 1), self.h2(second).reshape(-1, 1)]


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("gdd/losses")


CASES = [f"{form}_gamma0.0001/{stage}" for form in ("ns", "hinge") for stage in ("G", "D", "R1")]


@pytest.mark.parametrize("name", [*CASES, "ns_gamma0.01/R1", "hinge_gamma0.01/R1"])
def test_stage(golden, recorded, name):
    arrays, info = recorded
    case = info["cases"][name]
    form, stage = name.split("/")
    loss = GDDLoss(form.split("_")[0], r1_gamma=float(form.split("gamma")[1]))
    discriminator = TwoHeads()
    discriminator.load_state_dict(tensors(arrays, "D/"))
    labels, real = torch.from_numpy(arrays["in/labels"]), torch.from_numpy(arrays["in/real"])
    if stage == "G":
        weights, precond = golden("gdd/generator_precond")
        net = build_network({"class": "GDDPrecond", "kwargs": precond["constructor_kwargs"]}).eval()
        net.load_state_dict(tensors(weights, "param/"))
        images = net(80 * torch.from_numpy(arrays[f"{name}/z"]), torch.tensor(80.0), labels)
        assert relative_error(images, arrays[f"{name}/fake"]) < VALUE
        value = loss.generator_loss(discriminator, images, labels)
        learner = net
    elif stage == "D":
        fake = torch.from_numpy(arrays[f"{name}/fake"])
        value = loss.discriminator_loss(discriminator, fake, real, labels)
        learner = discriminator
    else:
        penalty = loss.r1_penalty(discriminator, real, labels)
        assert relative_error(penalty / (loss.r1_gamma / 2), arrays[f"{name}/penalty"]) < VALUE
        value, learner = penalty.mean() * case["gain"], discriminator
    assert relative_error(value, arrays[f"{name}/loss_times_gain"]) < VALUE
    value.backward()
    if stage == "R1":
        # A constant does not change the gradient at the image: no gradient of the biases, or zero.
        for bias in (discriminator.h1.bias, discriminator.h2.bias):
            assert bias.grad is None or not bias.grad.any()
    compare_gradients(learner, arrays, f"{name}/grad/")


def test_lazy_regularisation():
    table = json.loads((GOLDEN / "gdd" / "optimizer.json").read_text())["discriminator_adam"]
    for interval, row in table.items():
        factor, beta2 = lazy_regularisation(int(interval))
        assert factor == pytest.approx(row["lr_factor"], rel=1e-12)
        assert beta2 == pytest.approx(row["beta2"], rel=1e-12)
