"""Pickles of strangers: genuine ones come back as they were, all others end in one line, and nothing in them runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import functools
import io
import pickle
import struct
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from sida.data.arrays import Arrays
from sida.files.state_dicts import open_state_dict, read_state_dict
from sida.files.unpickler import Unpickler
from tests.data.test_archive import zip_of as archive
from tests.files.made_pickles import MARK
from tests.near import is_copy
from tests.refused import content_refused, refused


def text(value: str) -> bytes:
    """A text, pickled."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(module: str, name: str, *args: bytes) -> bytes:
    """A pickle that calls ``module.name`` with already pickled arguments."""
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR."


def beyond(size: int, shape: bytes = b"K\x05", stride: bytes = b"K\x01") -> bytes:
    """Weights of torch.save: a tensor of five elements, on a storage of so many bytes, whatever it claims."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x05tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(" + shape + b"t(" + stride + b"t\x89}tR"
    return archive({"a/data.pkl": b"\x80\x02}" + text("w") + tensor + b"s.", "a/data/0": bytes(size)})


# What genuine programs write


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reference_statistics_come_back_as_they_were(tmp_path, protocol):
    rng = np.random.default_rng(0)
    value = {
        "fid": {"mu": rng.standard_normal(64), "sigma": rng.standard_normal((64, 64))},
        "fd_dinov2": {"mu": rng.standard_normal(8).astype(np.float32), "count": np.int64(50_000), "name": "img512"},
        "many": {"turned": np.asfortranarray(np.eye(3, 4)), "big": np.arange(5, dtype=">i2"), "none": np.zeros(0)},
        "plain": [None, True, 2**40, -1.5, "text" * 3000, {"a": [1, 2]}, ["a"]],
    }
    path = tmp_path / "ref.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    result = Arrays(path)
    assert result.read("fd_dinov2.count") == 50_000
    names = {f"{group}.{name}": array for group in ("fid", "many") for name, array in value[group].items()}
    for name, array in names.items():
        assert result.kinds[name] == array.dtype.newbyteorder("=")
        assert is_copy(result.read(name), array)
    assert {"fd_dinov2.name", "plain"} == {*result.unread}


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
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_state_dict(tmp_path / "w.pth")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == torch.float32
        assert is_copy(found[name], tensor.float()), name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [torch.zeros(2)], "b": [1]}, "holds tensors without names: a"),
        # A counter is no tensor.
        (
            {"ema": {"a": torch.zeros(2), "step": 3, "lr": 0.1}, "net": {"a": torch.zeros(2), "b": torch.ones(1)}},
            r"ema \(1 tensor\), net \(2 tensors\).*--key",
        ),
        # Averages without names (score_sde) are better than the named weights beside them.
        (
            {"net": {"a": torch.zeros(2)}, "ema": {"decay": 0.9, "shadow_params": [torch.zeros(2)] * 2}},
            r"without names: ema\.shadow_params \(2\); .*net \(1 tensor\); .*copy_to.*--key",
        ),
        (torch.nn.Linear(2, 2), r"holds no dictionary of tensors, but .*Linear.*; .*state_dict\(\)"),
        ({"a": torch.zeros(2).to(torch.float8_e5m2)}, "'a' is a tensor of a kind that is not read"),
        ({"a": torch.arange(3)}, "tensor 'a' is of type Long"),
        ({"a": torch.tensor([1.0, float("nan")])}, "tensor 'a' holds NaN"),
        ({"a": torch.zeros(1).expand(10**6)}, "its tensors claim 1,000,000 elements"),
        ({"a": Path("x")}, "holds no dictionary of tensors"),
        ({"a": torch.eye(2).to_sparse(), "b": torch.zeros(1)}, "'a' is a tensor of a kind .*_rebuild_sparse_tensor"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "'a' is of type torch.ComplexFloatStorage"),
    ],
)
def test_other_files_of_torch_save_are_one_line(tmp_path, value, message):
    torch.save(value, tmp_path / "w.pth")
    refused(message, read_state_dict, tmp_path / "w.pth")


class Registry(dict):
    """A dictionary of another program."""


#: What programs store beside weights, by the module of its class.
BESIDE = {
    "decimal": decimal.Decimal("0.5"), "datetime": datetime.timedelta(3), "functools": functools.partial(int, "3"),
    "collections": collections.deque([1, 2]), "types": types.SimpleNamespace(lr=0.1), "numpy": np.random.default_rng(3),
    "numpy.ma": np.ma.masked_array([1.0, 2.0], [True, False]), "torch.optim": torch.optim.lr_scheduler.LambdaLR,
    "own": Registry(a=1), "nested": collections.defaultdict(list, {"a": [Path()]}), "complex": torch.ones(2).cfloat(),
    "sparse": torch.eye(2).to_sparse(), "module": torch.nn.GELU(),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_objects_beside_weights_are_not_read(tmp_path, name):
    weights = {"w": torch.randn(3, 2), "buffer": torch.nn.Buffer(torch.ones(2))}
    contents = [({"ema": weights, "extra": BESIDE[name]}, "ema"), ({"args": BESIDE[name], **weights}, None)]
    for content, key in contents[: 1 if torch.is_tensor(BESIDE[name]) else 2]:
        torch.save(content, tmp_path / "w.pt")
        state = read_state_dict(tmp_path / "w.pt", key)
        assert is_copy(state["w"], weights["w"])
        assert is_copy(state["buffer"], weights["buffer"])


def test_arguments_of_a_training_are_plain_values_with_one_meaning(tmp_path):
    loop: dict = {"depth": 3}
    loop["self"] = loop
    config = {
        "model": {"heads": 4, "lr": 1, "loop": loop},
        "optimizer": {"lr": 2, "betas": (0.9, 0.99)},
        "big": 10**400,
    }
    arguments = argparse.Namespace(name="x" * 500, none=None, flag=True, path=Path("a"))
    torch.save({"ema": {"w": torch.zeros(2)}, "args": arguments, "config": config}, tmp_path / "w.pt")
    assert open_state_dict(tmp_path / "w.pt", "ema").arguments == {
        "heads": 4,
        "depth": 3,
        "name": "x" * 200,
        "none": None,
        "flag": True,
    }


def test_a_tensor_beyond_its_memory_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(beyond(20))
    assert read_state_dict(tmp_path / "w.pth")["w"].tolist() == [0.0] * 5
    content_refused(tmp_path / "w.pth", beyond(16), "claims more elements", read_state_dict)


@pytest.mark.parametrize(
    ("axis", "axes"),
    [(pickle.dumps(10**4000)[2:-1], 10), (pickle.dumps(1 << 48)[2:-1], 1), (b"K\x01", 9), (b"K\x01", 20_000), (b"N", 1),
     (b"\x88", 2), (pickle.dumps(10**4000)[2:-1], 1000)],
    ids=["4,000 digits", "beyond any", "9 axes", "20,000 axes", "none", "true", "4,000,000 digits"],
)  # fmt: skip
def test_a_tensor_of_an_impossible_shape_is_refused_before_its_elements_are_counted(tmp_path, axis, axes):
    begin = time.process_time()
    content_refused(tmp_path / "w.pth", beyond(20, axis * axes, b"K\x01" * axes), "impossible shape", read_state_dict)
    assert time.process_time() - begin < 5


def test_the_unpickler_works_in_a_child_only():
    with pytest.raises(RuntimeError, match="child process"):
        Unpickler(io.BytesIO(b"N."))


# What is refused: names outside the allow-list; damage, wrong sizes, cut files, other files; endless work


#: A dtype of objects that is given flags of its own (NPY_ITEM_REFCOUNT and the like) by BUILD: numpy follows pointers.
FLAGGED = pickle.dumps(np.zeros(3072, np.uint8), 2).replace(b"u1", b"O8").replace(b"K\0t", b"K\x3ft")


@pytest.mark.usefixtures("forked_readers")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (call("posix", "system", text(f"touch {MARK}")), "'posix.system'"),
        (call("torch.storage", "os.system", text("x")), r"object of class 'torch\.storage\.os\.system'"),
        (call("builtins", "getattr", b"cos\nsystem\n", text("__call__")), "attribute of a type"),
        (call("builtins", "exec", text(f"open('{MARK}', 'w')")), "'builtins.exec'"),
        (call("builtins", "getattr", text("a"), text("__class__")), "attribute of a str"),
        (b"\x80\x02cbuiltins\nset\n}" + text("a") + b"Nsb.", "damaged|set"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"\x80\x02\x82\x01.", "extension"),
        (b"\x80\x02K\x01Q.", "data outside the file"),
        (pickle.dumps(np.array([Path("x")], dtype=object)), "numpy array of type object"),
        (FLAGGED, "numpy array of type|its reader ended|damaged"),
        (call("_codecs", "encode", text("x"), text("rot13")), "rot13"),
        (b"", "not a safetensors file"),
        (b"hello", "a text"),
        (b"\x80\x02}]K\x01s.", "damaged"),
        (b"\x80\x02B" + struct.pack("<I", 2**31) + b"x" * 1000, "damaged|memory"),
        (archive({"a/code.py": b"x"}), "no data.pkl"),
        (archive({"a/data.pkl": b"\x80\x02N.", "a/byteorder": b"big"}), "big-endian"),
    ],
)
def test_foreign_content_is_refused_soon_and_runs_nothing(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sida.files.convert.SECONDS", 1)
    content_refused(tmp_path / "n.pkl", content, reason, read_state_dict)
