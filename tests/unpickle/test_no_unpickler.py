"""No file of a stranger reaches an unpickler: there is none in the product."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from sida.config.resources import ROOT
from sida.errors import UserError
from sida.unpickle.values import read_state_dict

#: Modules that make objects from what a file says, Python's own first.
UNPICKLERS = {"pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LOADERS = {"torch.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle"}
#: A source without any of these words needs no search.
WORDS = (*UNPICKLERS, "torch.load", "jit.load", "import load", "Unpickler", "__import__", "weights_only")
#: A TorchScript file is a program, run as one; the registry knows its SHA-256.
KNOWN = {("eval/features/inception.py", "torch.jit.load")}


def unpicklers(source: str) -> list[str]:
    """Every import of an unpickler and every call that ends in one."""
    found = []
    if not any(word in source for word in WORDS):
        return found
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").partition(".")[0] in UNPICKLERS else []
            found += [alias.name for alias in node.names if f"{node.module}.{alias.name}" in LOADERS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in LOADERS or name.split(".")[-1] in ("Unpickler", "__import__") else []
            flags = (k for k in node.keywords if k.arg in ("allow_pickle", "weights_only"))
            found += [name for flag in flags if ast.unparse(flag.value) != "False"]
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import Unpickler", "import dill.source", "def f():\n    import _pickle as p",
        "torch.load(p, weights_only=True)", "from torch import load", "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=flag)", "numpy.compat.py3k.Unpickler(f)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert unpicklers(line)


def test_no_unpickler_stays_in_the_product():
    found = set()
    for folder in ("sida", "eval", "workflow"):
        for path in (ROOT / folder).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            found |= {(name, what) for what in unpicklers(path.read_text(encoding="utf-8"))}
    assert found == KNOWN
    for path in (ROOT / "workflow").rglob("*.smk"):
        assert "pickle" not in path.read_text(encoding="utf-8"), path


def weights(tmp_path: Path, value: object, **options) -> Path:
    torch.save(value, tmp_path / "w.pth", **options)
    return tmp_path / "w.pth"


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_torch_save_are_read_exactly(tmp_path, zipped):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
    state = net.state_dict() | {
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(3, 5).bfloat16(),
        "turned": torch.randn(4, 6).T,
        "number": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "double": torch.tensor([1.0, 2.0], dtype=torch.float64),
    }
    found = read_state_dict(weights(tmp_path, state, _use_new_zipfile_serialization=zipped))
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.float()), name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "holds no dictionary of tensors"),
        ([torch.zeros(2)], "holds no dictionary of tensors"),
        ({"a": torch.zeros(2), "b": 1}, "holds no dictionary of tensors"),
        ({"a": torch.arange(3)}, "tensor 'a' is of type I64"),
        ({"a": torch.tensor([1.0, float("nan")])}, "tensor 'a' holds NaN"),
        ({"a": Path("x")}, "refused: it refers to 'pathlib"),
    ],
)
def test_other_files_are_one_line(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        read_state_dict(weights(tmp_path, value))
