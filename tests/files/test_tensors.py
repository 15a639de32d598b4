"""Tensors with a JSON record in one file: the same as those of the safetensors package, and one line for each fault."""

import json
import os
import pickle
import re

import pytest
import safetensors
import safetensors.torch
import torch

import sida.files.tensors as tensors_module
from sida.errors import UserError, errors_at
from sida.files.tensors import (
    read_errors,
    read_tensor_header,
    read_tensors,
    torch_dtypes,
    verify_tensors,
    write_tensors,
)
from sida.files.text_files import DamagedError
from tests.near import is_copy
from tests.refused import refused, refusing

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
    return is_copy(one, other) and all(one[k].dtype == other[k].dtype for k in one)


def test_what_is_written_is_read_by_this_and_by_the_safetensors_package_and_what_that_writes(tmp_path):
    ours, again, theirs = (tmp_path / f"{name}.safetensors" for name in ("ours", "again", "theirs"))
    for path in (ours, again):
        write_tensors(path, tensors(), RECORD)
    assert ours.read_bytes() == again.read_bytes()
    plain = {name: tensor.clone().contiguous() for name, tensor in tensors().items()}
    # Files that were written through the package, as all but networks were at first, with another spelling of JSON.
    safetensors.torch.save_file(plain, theirs, {"sida": json.dumps(RECORD, indent=1)})
    for path in (ours, theirs):
        found, record = read_tensors(path)
        assert equal(found, tensors())
        assert record == read_tensor_header(path).record == RECORD
        assert equal(safetensors.torch.load_file(path), tensors())
    safetensors.torch.save_file(plain, theirs)
    assert read_tensor_header(theirs).record is None


@pytest.mark.parametrize("length", [0x0280, 0x0480])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    path = tmp_path / "a.safetensors"
    header = lambda: int.from_bytes(path.read_bytes()[:8], "little")
    write_tensors(path, {"x": torch.ones(1)}, {"filler": ""})
    write_tensors(path, {"x": torch.ones(1)}, {"filler": "-" * (length - header())})
    assert header() == length
    assert equal(read_tensors(path)[0], {"x": torch.ones(1)})


FOUR = '{"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'


def headed(header: str, length: int | None = None, data: int = 16) -> bytes:
    """A file with a header, of which it says another length, and zeros."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header.encode() + bytes(data)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a safetensors file"),
        (b"\x80\x04\x95" + b"x" * 40, "sida convert"),
        (b"\x89PNG" + bytes(64), "is one picture, not a network; .*sida score"),
        (headed("{}", 1 << 31, 0), "impossible header length"),
        (headed("{}", data=1), "not a safetensors file"),
        (headed(f'{{"a": {FOUR}, "a": {FOUR}}}'), "key 'a' occurs twice"),
        (headed(f'{{"a": {FOUR.replace("[4]", "[3]")}}}'), "cut off, damaged"),
        (headed(f'{{"a": {FOUR.replace("[0, 16]", "[4, 20]")}}}', data=20), "cut off, damaged"),
        (headed(f'{{"a": {FOUR}, "__metadata__": {{"x": 1}}}}'), "cut off, damaged"),
        (headed('{"a": {"dtype": "F32", "shape": [0, 4611686018427387904], "data_offsets": [0, 0]}}', data=0), "shape"),
        (headed(f'{{"a": {FOUR.replace("[4]", str([4, *[1] * 99]))}}}'), "impossible shape"),
    ],
)
def test_other_and_wrong_files_are_explained_in_the_readers_words(tmp_path, content, reason):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    own = refused(reason, read_tensors, path)
    assert str(own).startswith(f"{path}: {own.fault}; ")
    told = re.escape(f"{path}: no shard ({own.fault}); measure it again")
    with refusing(f"^{told}$"), read_errors(path, "no shard", "measure it again"):
        read_tensors(path)


def test_a_zip_of_pictures_is_not_called_a_pickle(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\3\4" + bytes(64))
    refused("is a zip archive, not a network; .*sida score", read_tensors, tmp_path / "x.zip")


def test_missing_files_and_strange_records(tmp_path):
    path = tmp_path / "x.safetensors"
    refused("no such file", read_tensors, path)
    path.write_bytes(headed('{"__metadata__": null}', data=0))
    assert read_tensors(path) == ({}, {})
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"sida": "[1]"})
    refused("not a JSON mapping", read_tensor_header, path)


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    for bad, record, message in (
        ({"z": torch.zeros(2, dtype=torch.complex64)}, {}, "tensor 'z' of type torch.complex64 cannot be stored"),
        ({"a": torch.zeros(2)}, {"when": object()}, "not plain JSON"),
        ({"a": torch.zeros(2)}, {"value": float("nan")}, "not plain JSON"),
    ):
        refused(message, write_tensors, tmp_path / "x.safetensors", bad, record)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [DamagedError(""), UserError("", "x")])
def test_a_place_is_given_once_and_copies_in_other_processes_keep_it(error):
    with pytest.raises(UserError), errors_at("outer"), errors_at("a.bin"):
        raise error
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.where) == (type(error), str(error), "a.bin")


@pytest.mark.parametrize("read", [read_tensors, verify_tensors], ids=lambda read: read.__name__)
def test_a_file_that_is_replaced_between_header_and_tensors_is_read_anew(tmp_path, monkeypatch, read):
    """Its hash would not fit, and the message would advise to delete the new file."""
    path, left = tmp_path / "x.safetensors", [1, 2, 3]
    original = tensors_module.read_tensor_header

    def replaced(file):
        header = original(file)
        if left:
            write_tensors(path, {"x": torch.full((9,), left.pop())})
        return header

    write_tensors(path, {"x": torch.zeros(9, dtype=torch.int64)})
    monkeypatch.setattr(tensors_module, "read_tensor_header", replaced)
    content = read(path)
    assert not left
    assert content is True or content[0]["x"].unique().tolist() == [1]
    left.extend(range(99))
    error = refused("replaced.*again", read, path)
    assert error.where == str(path)
