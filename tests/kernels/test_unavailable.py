"""Where fused kernels cannot be used, one line says why."""

from __future__ import annotations

import sys
import types

import pytest

from sida import kernels
from sida.errors import UserError


@pytest.fixture
def asked_anew():
    kernels.unavailable_reason.cache_clear()
    yield
    kernels.unavailable_reason.cache_clear()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "the package triton cannot be imported"),
        (types.SimpleNamespace(__version__="3.1.0"), "triton 3.1.0 is older than 3.3, which comes with torch 2.7"),
    ],
)
def test_a_missing_or_old_triton_is_said_in_one_line(monkeypatch, asked_anew, module, reason):
    monkeypatch.setitem(sys.modules, "triton", module)
    with pytest.raises(UserError, match="recipe.kernels: fused kernels cannot be used: " + reason) as error:
        kernels.require_fused("recipe.kernels")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", ["3.3.1", "3.10.0", "4.0.0+git1234"])
def test_a_new_triton_will_do(monkeypatch, asked_anew, version):
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(__version__=version))
    assert kernels.unavailable_reason() is None
