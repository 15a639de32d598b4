"""Hostile, damaged and oversized pickles: refused in one line, in bounded time and memory, and nothing ever runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sida.config.resources import ROOT
from sida.errors import UserError
from sida.networks import build_network
from sida.networks import official as architecture
from sida.networks.official import import_official
from sida.unpickle.pickles import open_pickle, read_pickle
from tests.data.test_archive import zip_of as archive
from tests.readers.checkpoint_readers import NAMES, VALUES
from tests.readers.guards import watched
from tests.unpickle.genuine import MARK, reduced, write_genuine
from tests.unpickle.opcodes import called, refused, text, whole


@contextlib.contextmanager
def nothing_may_run(folder: Path):
    """Not even an import, or a file outside the folder; also where the file is refused."""
    with watched(folder, also=("import", "code.__new__")) as seen:
        try:
            yield
        finally:
            assert seen == []


@pytest.fixture(scope="module")
def genuine(tmp_path_factory) -> Path:
    kwargs = {
        "img_resolution": 8, "img_channels": 1, "model_type": "SongUNet", "model_channels": 4, "channel_mult": [1],
        "num_blocks": 1, "attn_resolutions": [],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("genuine") / "n.pkl"
    write_genuine(path, build_network({"class": "EDMPrecond", "kwargs": kwargs}))
    import_official(path, path.with_suffix(".safetensors"))  # also imports whatever the reader itself needs
    return path


def open_watched(path: Path) -> object:
    with nothing_may_run(path.parent):
        return open_pickle(path)[0]


def refuse(path: Path, data: bytes, reason: str) -> str:
    """The data are refused with this reason, in little memory; returns the message."""
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        open_pickle(path)
    return refused(path, data, reason, open_watched)


def call(module: str, name: str, *args: bytes) -> bytes:
    """A pickle that calls ``module.name`` with already pickled arguments."""
    return whole(called(module, name, *args))


class OnlyState:
    pass


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (reduced(os.system, f"touch {MARK}"), f"'{os.system.__module__}.system'"),
        (reduced(__import__, "antigravity"), "'builtins.__import__'"),
        (reduced(pickle.loads, b"."), "'_pickle.loads'"),
        (pickle.dumps(OnlyState()), "OnlyState'"),
        (call("sida.networks.file", "save_network"), "'sida.networks.file.save_network'"),
        (call("torch.storage", "os.system", text("x")), r"'torch\.storage\.os\.system'"),
        (call("builtins", "getattr", b"cos\nsystem\n", text("__call__")), "'os.system'"),
        (call("builtins", "getattr", b"cbuiltins\nset\n", text("__class__")), "builtins.getattr for '__class__'"),
        (call("builtins", "getattr", text("a"), text("__class__")), "builtins.getattr for '__class__' of 'str'"),
        (call("builtins", "getattr", b"ctorch\nfloat32\n", text("__reduce__")), r"of 'torch\.float32'"),
        (call("numpy", "ndarray", b"K\x04"), "numpy.ndarray"),
        (b"\x80\x02" + text("x") + b")R.", "it calls a value of type str"),
        (b"\x80\x02]" + text("x") + b"b.", "sets the state of a value of type list"),
        (b"\x80\x02cbuiltins\nset\n}b.", "sets the state of 'builtins.set'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"\x80\x02(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02(o.", "opcode OBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02Pid\n.", "opcode PERSID"),
        (b"\x80\x02K\x01Q.", "data outside the file"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (pickle.dumps(np.array([OnlyState()], dtype=object)), "numpy array of type 'O8'"),
        (pickle.dumps(np.zeros(2, dtype=[("a", "f4")])), "numpy array of type 'V4'"),
        (call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}"), "not a class instance"),
        (call("_codecs", "encode", text("x"), text("rot13")), "'rot13'"),
    ],
)
def test_anything_outside_the_allow_list_is_refused_by_name(tmp_path, monkeypatch, data, named):
    monkeypatch.chdir(tmp_path)
    assert "refused" in refuse(tmp_path / "n.pkl", data, named)
    assert not (tmp_path / MARK).exists()


def test_names_from_the_file_cannot_write_to_the_terminal(tmp_path):
    message = refuse(tmp_path / "n.pkl", call("os", "\x1b[2J" + "x" * 400), "refused")
    assert "\x1b" not in message
    assert len(message) < 300 + len(str(tmp_path))


STORAGE_CLAIM = (
    b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"J\x00\x00\x00\x20" + b"tQ."
)
TENSOR_CLAIM = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0")
    + text("cpu") + b"K\x01tQK\x00(J\x00\x00\x00\x10K\x01t(K\x00K\x00t\x89}tR."
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x80\x04", "cut off"),
        (b"hello", "not a pickle"),
        (b"<!DOCTYPE html>", "download went wrong"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02}]K\x01s.", "list as a key"),
        (b"\x80\x02}(K\x01u.", "without value"),
        (b"\x80\x02B" + struct.pack("<I", 2**31) + b"x" * 1000, "cut off"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x" * 1000, "cut off"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**31) + b"x" * 1000, "cut off"),
        (b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\xff" * 100_000 + b".", "an integer of 100000 bytes"),
        (b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.", "damaged"),
        (whole(b"N" * 210_000), "far more objects"),
        (whole(b"(" * 200_000), "far more objects"),
        (archive({"a/data.pkl": b"\x80\x02N.", "a/data/0": b"\0" * 10**7}, zipfile.ZIP_DEFLATED), "compressed archive"),
        (archive({"a/code.py": b"x"}), "no data.pkl"),
        (archive({"a/data.pkl": STORAGE_CLAIM, "a/data/0": b"\0" * 16}), "claims 2147483648 bytes and 16 are there"),
        (
            archive({"a/data.pkl": TENSOR_CLAIM, "a/data/0": b"\0" * 16}),
            "claims 268435456 elements and its storage holds 1",
        ),
        (archive({"a/data.pkl": b"\x80\x02N.", "a/byteorder": b"big"}), "big-endian"),
        (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
    ],
)
def test_damaged_and_oversized_files(tmp_path, data, reason):
    refuse(tmp_path / "n.pkl", data, reason)


@pytest.mark.parametrize(
    ("data", "value"), [(whole(b"]" * 200_000), []), (b"\x80\x02ccollections\nOrderedDict\n)}\x92.", {})]
)
def test_odd_pickles_that_ask_for_little_are_read(tmp_path, data, value):
    (tmp_path / "n.pkl").write_bytes(data)
    assert open_watched(tmp_path / "n.pkl") == value


def test_overlapping_archive_members_are_refused(tmp_path):
    body = b"\0" * 100_000
    data = bytearray(archive({"a/data.pkl": b"\x80\x02N.", "a/data/0": body, "a/data/1": b"", "a/data/2": b""}))
    # Let every entry of the central directory claim the one large member.
    at = data.index(b"PK\x01\x02")
    entries = []
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        entries.append(at)
        at += 4
    for entry in entries[2:]:
        data[entry + 16 : entry + 28] = data[entries[1] + 16 : entries[1] + 28]
        data[entry + 42 : entry + 46] = data[entries[1] + 42 : entries[1] + 46]
    refuse(tmp_path / "n.pt", bytes(data), "overlap|zip archive")


def test_laughing_lists_stay_shared(tmp_path):
    data = b"\x80\x02]q\x00" + b"".join(
        b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e" + b"q" + bytes([i + 1]) for i in range(40)
    )
    path = tmp_path / "n.pkl"
    path.write_bytes(data + b".")
    value = read_pickle(path)
    assert len(value) == 2
    assert value[0] is value[1]


def test_structures_that_contain_themselves_are_refused(tmp_path):
    path = tmp_path / "n.pkl"
    loop: list = []
    loop.append(loop)
    path.write_bytes(pickle.dumps(loop))
    with pytest.raises(UserError, match="contains itself"):
        read_pickle(path)
    deep: list = []
    for _ in range(200):
        deep = [deep]
    path.write_bytes(pickle.dumps(deep))
    with pytest.raises(UserError, match="nested more than"):
        read_pickle(path)


def test_nested_streams_are_counted(tmp_path):
    data = b"\x80\x02N."
    for _ in range(5):
        inner = archive({"a/data.pkl": data})
        data = b"\x80\x04ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR."
    refuse(tmp_path / "n.pkl", data, "nests more than 3")


def test_modules_that_contain_themselves_are_refused(tmp_path, genuine):
    value, _ = open_pickle(genuine)
    network = value["ema"]
    network.state["_modules"]["again"] = network
    with pytest.raises(UserError, match="more nested modules"):
        architecture.network_tensors(network, "f.pkl")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_off_pickle_is_one_line(tmp_path, genuine, share):
    content = genuine.read_bytes()
    path = tmp_path / "n.pkl"
    path.write_bytes(content[: int(share * len(content))])
    with nothing_may_run(tmp_path), pytest.raises(UserError) as caught:
        import_official(path, tmp_path / "n.safetensors")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "n.safetensors").exists()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from((*VALUES, *NAMES)), max_size=40))
def test_random_programs_never_run_hang_or_crash(tmp_path, genuine, opcodes):
    path = tmp_path / "n.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(opcodes) + b".")
    for read in (open_pickle, read_pickle):
        with contextlib.suppress(UserError), nothing_may_run(tmp_path):
            read(path)


def test_the_reader_does_not_use_python_s_pickle():
    # Networks bring torch, which imports pickle; test_no_unpickler.py searches the sources of all packages.
    modules = ", ".join(f"sida.unpickle.{path.stem}" for path in (ROOT / "sida" / "unpickle").glob("[a-z]*.py"))
    script = f"import sys, {modules}; assert 'sida.unpickle.values' in sys.modules; assert 'pickle' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


# Plain values


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reference_statistics_come_back_as_they_were(tmp_path, protocol):
    rng = np.random.default_rng(0)
    value = {
        "fid": {"mu": rng.standard_normal(64), "sigma": rng.standard_normal((64, 64))},
        "fd_dinov2": {"mu": rng.standard_normal(8).astype(np.float32), "count": np.int64(50_000), "name": "img512"},
        "many": [np.asfortranarray(np.eye(3, 4)), np.arange(5, dtype=">i2"), np.array(["a", "bc"]), np.zeros(0)],
        "plain": (None, True, 2**40, -1.5, b"bytes" * 3000, {1, 2}, np.bool_(True), complex(1, 2)),
    }
    path = tmp_path / "ref.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    result = read_pickle(path)
    assert result["plain"] == value["plain"]
    assert result["fd_dinov2"]["count"] == 50_000
    pairs = [(result["fid"][k], value["fid"][k]) for k in ("mu", "sigma")] + list(zip(result["many"], value["many"]))
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    result["fid"]["mu"][0] = 0.0  # a fresh array, not a view of the file


def test_objects_and_tensors_are_no_plain_values(tmp_path, genuine):
    with pytest.raises(UserError, match=r"holds a PersistentObject.*sida convert"):
        read_pickle(genuine)


def test_an_array_whose_bytes_do_not_match_its_shape_is_refused(tmp_path):
    data = pickle.dumps(np.arange(300, dtype=np.uint8), protocol=2).replace(b"M,\x01", b"M-\x01")
    path = tmp_path / "n.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError, match="300 bytes"):
        read_pickle(path)
