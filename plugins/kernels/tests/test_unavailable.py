"""Where fused kernels cannot be used, one line says why."""

import sys
import types

import pytest
import torch

from sida.plugins.kernels import availability
from sida.sampling import Drawer, read_sampler
from tests.networks.made import SMALL, random_network
from tests.refused import refused


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch):
    monkeypatch.setattr(availability, "unavailable_reason", availability.unavailable_reason.__wrapped__)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "the package triton cannot be imported"),
        ("3.1.0", "triton 3.1.0 is older than 3.3, which comes with torch 2.7"),
        *((version, None) for version in ("3.3.1", "3.10.0", "4.0.0+git1234")),
    ],
)
def test_a_missing_or_old_triton_is_said_in_one_line_and_a_new_one_will_do(monkeypatch, module, reason):
    monkeypatch.setitem(sys.modules, "triton", module and types.SimpleNamespace(__version__=module))
    if reason is None:
        assert availability.unavailable_reason() is None
    else:
        for name in ("fused", "compiled"):
            require = getattr(availability, f"require_{name}")
            refused(f"recipe.kernels: {name} kernels cannot be used: {reason}", require, "recipe.kernels")


def test_sampling_says_it_before_anything_is_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(sys.modules[Drawer.__module__], "device_of", lambda net: torch.device("cuda"))
    drawer = Drawer(read_sampler("one_step:kernels=fused"), random_network("EDMPrecond", SMALL))
    refused("sampler.kernels: .*triton.* choose 'torch'", drawer.draw, range(4), 4)
