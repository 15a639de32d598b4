"""Tensors with a JSON record in one file: the same as those of the safetensors package, and one line for each fault."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from sida.errors import UserError, located
from sida.files.tensors import (
    TensorFileError,
    explained,
    read_record,
    read_tensor_header,
    read_tensors,
    torch_dtypes,
    verify_tensors,
    write_tensors,
)
from sida.files.text_files import DamagedError
from tests.refused import refused

ROOT = Path(__file__).resolve().parents[2]
RECORD = {"format": "x/1", "ranges": [[0, 5]], "name": "ünï"}


def tensors():
    every = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in torch_dtypes().items()}
    return {
        **every,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4, dtype=torch.int64),
        "turned": every["F32"].T,
        # Memory that tensors share is stored for each.
        "again": every["F32"],
        "part": every["F32"][1],
    }


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)


def test_what_is_written_is_read(tmp_path):
    write_tensors(tmp_path / "a.safetensors", tensors(), RECORD)
    found, record = read_tensors(tmp_path / "a.safetensors")
    assert equal(found, tensors())
    assert record == read_record(tmp_path / "a.safetensors") == RECORD
    write_tensors(tmp_path / "b.safetensors", tensors(), RECORD)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_safetensors_package_reads_and_writes_the_same(tmp_path):
    write_tensors(tmp_path / "ours.safetensors", tensors(), RECORD)
    assert equal(safetensors.torch.load_file(tmp_path / "ours.safetensors"), tensors())
    plain = {name: tensor.clone().contiguous() for name, tensor in tensors().items()}
    # Files that were written through the package, as all but networks were at first, with another spelling of JSON.
    safetensors.torch.save_file(plain, tmp_path / "theirs.safetensors", {"sida": json.dumps(RECORD, indent=1)})
    found, record = read_tensors(tmp_path / "theirs.safetensors")
    assert equal(found, tensors())
    assert record == RECORD
    safetensors.torch.save_file(plain, tmp_path / "bare.safetensors")
    assert read_record(tmp_path / "bare.safetensors") == {}


@pytest.mark.parametrize("length", [0x0280, 0x0480])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    path = tmp_path / "a.safetensors"
    header = lambda: int.from_bytes(path.read_bytes()[:8], "little")
    write_tensors(path, {"x": torch.ones(1)}, {"filler": ""})
    write_tensors(path, {"x": torch.ones(1)}, {"filler": "-" * (length - header())})
    assert header() == length
    assert equal(read_tensors(path)[0], {"x": torch.ones(1)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no safetensors file"),
        (b"\x80\x04\x95" + b"x" * 40, "sida convert"),
        ((1 << 31).to_bytes(8, "little") + b"{}", "impossible header length"),
        ((2).to_bytes(8, "little") + b"{}x", "no safetensors file"),
    ],
)
def test_foreign_files_are_explained_in_the_readers_words(tmp_path, content, reason):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match=reason) as own:
        read_tensors(path)
    assert str(own.value).startswith(f"{path}: {own.value.fault}; ")
    with pytest.raises(UserError) as caught, explained(path, "no shard", "measure it again"):
        read_tensors(path)
    assert str(caught.value) == f"{path}: no shard ({own.value.fault}); measure it again"


def test_missing_files_and_strange_records(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(TensorFileError, match="no such file"):
        read_tensors(tmp_path / "nothing.safetensors")
    path.write_bytes((22).to_bytes(8, "little") + b'{"__metadata__": null}')
    assert read_tensors(path) == ({}, {})
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"sida": "[1]"})
    with pytest.raises(TensorFileError, match="no JSON mapping"):
        read_record(path)


FOUR = '{"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'


@pytest.mark.parametrize(
    "header",
    [
        f'{{"a": {FOUR}, "a": {FOUR}}}', f'{{"a": {FOUR.replace("[4]", "[3]")}}}',
        f'{{"a": {FOUR.replace("[0, 16]", "[4, 20]")}}}', f'{{"a": {FOUR}, "__metadata__": {{"x": 1}}}}',
    ],
    ids=["name twice", "size", "hole", "metadata of numbers"],
)  # fmt: skip
def test_wrong_headers_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(20 if "[4, 20]" in header else 16))
    with pytest.raises(TensorFileError, match=r"x\.safetensors: cut off, damaged"):
        read_tensors(path)


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    for bad, record, message in (
        ({"z": torch.zeros(2, dtype=torch.complex64)}, {}, "tensor 'z' of type torch.complex64 cannot be stored"),
        ({"a": torch.zeros(2)}, {"when": object()}, "not plain JSON"),
        ({"a": torch.zeros(2)}, {"value": float("nan")}, "not plain JSON"),
    ):
        refused(message, write_tensors, tmp_path / "x.safetensors", bad, record)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [TensorFileError("", "cut off"), DamagedError(""), UserError("", "x")])
def test_a_place_is_given_once_and_copies_in_other_processes_keep_it(error):
    with pytest.raises(UserError), located("outer"), located("a.bin"):
        raise error
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.place) == (type(error), str(error), "a.bin")


def test_files_of_earlier_versions_are_read_and_their_hashes_checked(tmp_path):
    path = tmp_path / "x.safetensors"
    whole = (ROOT / "eval/features/digits.safetensors").read_bytes()
    path.write_bytes(whole)
    assert b"sida_data_sha256" in whole[:2000]
    assert verify_tensors(path)
    assert "tensors_sha256" not in read_record(path)
    start = 8 + int.from_bytes(whole[:8], "little")
    for place, part in ((start + 100, "tensors do"), (whole.index(b'\\"format') + 4, "header does")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(TensorFileError, match=f"its {part} not have the recorded SHA-256"):
            read_tensors(path)


@pytest.mark.parametrize(("name", "start"), [("a.npz", b"PK\x03\x04"), ("a.bin", b"\x89PNG"), ("a.h5", b"")])
def test_pictures_and_arrays_are_named_where_a_network_is_asked_for(name, start, tmp_path):
    (tmp_path / name).write_bytes(start + bytes(64))
    refused(f"{name}: is .*, and no network; .*sida score", read_tensor_header, tmp_path / name)
