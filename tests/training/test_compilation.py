"""``compile: true`` on a torch that knows all of its options, on an older one, and where nothing can be compiled."""

from __future__ import annotations

import pytest
import torch

from sida import machine
from sida.machine import compiled
from sida.methods import distill
from tests.training.toy import STUDENT, results


@pytest.fixture
def torch_compile(monkeypatch):
    """Replaces ``torch.compile``, and forgets what was found out about another one."""

    def replace(function):
        monkeypatch.setattr(torch, "compile", function)
        forget()

    forget = lambda: [function.cache_clear() for function in (machine._fault, machine._say_once)]
    yield replace
    forget()


@pytest.fixture
def net():
    return torch.nn.Linear(2, 2)


def test_known_options_are_used(torch_compile, net, capsys):
    seen = []

    def newest(model, *, dynamic=None, options=None, isolate_recompiles=False):
        seen.append((isolate_recompiles, set(options or {})))
        return model

    torch_compile(newest)
    compiled(net)
    assert seen[-1] == (True, {"guard_filter_fn", "layout_optimization", "cpp_wrapper"})
    assert capsys.readouterr().err == ""


def test_older_torch_compiles_with_all_checks_and_says_so_once(torch_compile, net, capsys):
    seen = []

    def older(model, *, fullgraph=False, dynamic=None, backend="inductor", mode=None, options=None, disable=False):
        if unknown := set(options or {}) - {"layout_optimization", "cpp_wrapper"}:
            raise RuntimeError(f"Unexpected optimization option {unknown}")
        seen.append(model)
        return model

    torch_compile(older)
    assert compiled(net) is compiled(net) is net
    assert seen[-2:] == [net, net]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("compiles with checks at every call; a newer one is faster")


def test_training_goes_on_without_a_compiler(tmp_path, teacher, torch_compile, capsys):
    def broken(model, **options):
        def call(*args):
            raise RuntimeError("No working C++ compiler found\nin a long text")

        return call

    spec = {**STUDENT, "teacher": teacher, "total_kimg": 0.1, "evaluation": None}
    distill(spec, tmp_path / "plain")
    torch_compile(broken)
    capsys.readouterr()
    distill({**spec, "compile": True}, tmp_path / "compiled")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("compile:")]
    assert len(said) == 1
    assert "(No working C++ compiler found)" in said[0]
    assert results(tmp_path / "compiled")["train"] == results(tmp_path / "plain")["train"]


@pytest.mark.slow
def test_compiled_network_computes_the_same():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    x = torch.randn(5, 4)
    torch.testing.assert_close(compiled(net)(x), net(x))
