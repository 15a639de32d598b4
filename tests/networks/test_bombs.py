"""Small files of networks that ask for endless work or memory, or a terminal for obedience: refused, or shown harmless.

See :mod:`tests.files.opcodes` for the bounds. Each pickle has less than 3.5 MB.
"""

from __future__ import annotations

import json
import resource
import struct

import pytest
import torch

from sida.errors import UserError
from sida.files.tensors import read_tensors
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.networks.official import import_official
from tests.files.genuine import write_genuine
from tests.files.opcodes import again, called, kept, mapping, module, network, refused, shared, text, whole
from tests.networks.made import SMALL
from tests.readers.frame import command

FAR = "of processor time"
LONG = "a" * 1_000_000
IDENTITY = b"ctorch.nn.modules.linear\nIdentity\n)R"
ARGUMENTS = text("_init_args") + b")" + text("_init_kwargs")
TENSOR = called("torch._utils", "_rebuild_tensor_v2", b"ctorch\nFloatStorage\n", b"K\x00(K\x00t(K\x01t")
ONE = text("_parameters") + mapping(text("w") + TENSOR)
CONTAINER = "container\nSequential"


def children(count: int, each: bytes) -> bytes:
    return mapping(*(text(str(index)) + each for index in range(count)))


def shares(group: str) -> bytes:
    """A module whose group is what lies at slot 1."""
    return IDENTITY + b"}" + text(group) + again(1) + b"sb"


def entries(count: int, key=lambda index: text(str(index))) -> bytes:
    return text("x") + mapping(*(key(index) + b"N" for index in range(count))) + kept(1)


def given(*arguments: bytes) -> bytes:
    """A network of one tensor with constructor arguments."""
    return network(ARGUMENTS + mapping(*arguments), ONE)


SIZES = text("img_resolution") + b"K\x08" + text("img_channels") + b"K\x01"
WIDE = module(CONTAINER, text("_modules") + children(10_000, IDENTITY))
EDM, EDM2 = text("EDMPrecond"), text("Precond")
NETWORKS = {
    "a long name before many children": (
        network(text("_modules") + mapping(text("a" * 500_000) + WIDE)),
        "has no tensors|MiB of memory|of processor time",
    ),
    "parameters that many modules share": (
        network(entries(50_000), text("_modules") + children(8_000, shares("_parameters"))),
        FAR,
    ),
    "hooks that many modules share": (
        network(
            ARGUMENTS + mapping(SIZES),
            ONE,
            entries(50_000, lambda index: b"J" + struct.pack("<i", index)),
            text("_modules") + children(8_000, shares("_forward_pre_hooks")),
        ).replace(EDM, EDM2),
        FAR,
    ),
    "an endless argument": (given(text("channel_mult") + shared(40, 40)), "of processor time|MiB of memory"),
    "a long argument": (given(text("model_type") + text(LONG)), "model_type"),
    "many arguments": (given(*(text(f"a{i}") + b"N" for i in range(100_000))), "unknown key"),
    "an argument with a long name": (given(text(LONG) + b"N"), "unknown key"),
    "a class with a long name": (given().replace(EDM, text("\x1b" * 1_000_000)), r"architecture '\\x1b"),
    "many entries": (whole(mapping(*(text(f"e{i}") + b"N" for i in range(90_000)))), "has no entry 'ema'"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_network_takes_little_time_and_memory(name, tmp_path, monkeypatch):
    monkeypatch.setattr("sida.files.fenced.SECONDS", 2)
    content, reason = NETWORKS[name]
    assert len(content) < 3_500_000
    refused(tmp_path / "n.pkl", content, reason, lambda path: import_official(path, tmp_path / "n.safetensors"))
    assert not (tmp_path / "n.safetensors").exists()


def with_header(header: dict, body: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def our_network(kwargs: dict, tensors: int = 3000, **metadata) -> bytes:
    """A file of our format with an architecture and so many tensors of one number."""
    record = {"format": "sida-network-1", "network": {"class": "EDMPrecond", "kwargs": kwargs}, **metadata}
    entries = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(tensors)}
    return with_header({"__metadata__": {"sida": json.dumps(record)}, **entries}, bytes(tensors))


def test_weights_of_another_program_name_the_way_to_measure_them(tmp_path):
    theirs, state = tmp_path / "theirs.safetensors", tmp_path / "state.pt"
    theirs.write_bytes(with_header({"layer.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)))
    torch.save({"layer.weight": torch.zeros(2), "layer.bias": torch.zeros(2)}, state)
    for path, read in (
        (theirs, load_network),
        (state, lambda path: import_official(path, tmp_path / "out.safetensors")),
    ):
        with pytest.raises(UserError, match=r"score\.md, 'A function'") as caught:
            read(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_blocks": 2900}, "num_blocks: must be at most 64"),
        ({"num_blocks": 64, "channel_mult": [1] * 1000}, "claims 64000 blocks"),
        ({"channel_mult": [1] * 2000}, "channel_mult: must have at most 32 entries"),
        ({"resample_filter": [1] * 40_000}, "resample_filter: must have at most 32 entries"),
        ({"model_channels": 2 * 10**9}, "model_channels: must be at most 65536"),
        ({"label_dim": 10**9}, "label_dim: must be at most 1000000"),
        ({"img_resolution": 10**6}, "img_resolution: must be at most 4096"),
        ({"sigma_data": float("nan")}, "no JSON mapping"),
        ({"sigma_data": 10.0**300 * 10**300}, "no JSON mapping"),
        ({"x" * 1_000_000: 1}, "unknown key"),
        ({"model_type": "x" * 1_000_000}, "model_type"),
        ({"attn_resolutions": [[[[]]]] * 50_000}, "attn_resolutions"),
    ],
)
def test_an_absurd_architecture_in_a_header_is_refused_before_it_is_built(tmp_path, changes, reason):
    content = our_network({**SMALL, **changes})
    refused(tmp_path / "n.safetensors", content, reason, load_network)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a":[' + b"[]," * 30_000_000 + b"[]]}", "not a safetensors file"),
        (b'{"a":[' + b"[]," * 5_000_000 + b"[]]}", "header: has more than 500,000 values"),
        (b"{" + b",".join(b'"%d":{}' % n for n in range(1_200_000)) + b"}", "header: has more than 500,000 values"),
        (b'{"a":{"dtype":"U8","shape":[' + b"9223372036854775807," * 100_000 + b'1],"data_offsets":[0,0]}}', "damaged"),
        (b'{"a":' * 100_000, "not a safetensors file"),
    ],
)
def test_a_long_or_odd_header_is_refused(tmp_path, raw, reason):
    refused(tmp_path / "n.safetensors", len(raw).to_bytes(8, "little") + raw, reason, read_tensors)


def test_a_tensor_larger_than_the_memory_is_one_line(tmp_path):
    path = tmp_path / "n.safetensors"
    size = 1 << 35
    path.write_bytes(with_header({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}))
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size + size)  # a hole: nothing is stored
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, before[1]))
    try:
        with pytest.raises(UserError, match=r"has 34,359,738,\d+ bytes, more than there is memory"):
            read_tensors(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_record_is_nested_as_deep_as_people_nest(tmp_path):
    for depth, fits in ((60, True), (70, False), (900, False)):
        record = '{"a":' * depth + "1" + "}" * depth
        (tmp_path / "n.safetensors").write_bytes(with_header({"__metadata__": {"sida": record}}))
        if fits:
            assert read_tensors(tmp_path / "n.safetensors")[1]["a"]
        else:
            with pytest.raises(UserError, match="no JSON mapping"):
                read_tensors(tmp_path / "n.safetensors")


# What is printed


def test_info_prints_nothing_that_a_terminal_obeys(tmp_path):
    with torch.random.fork_rng():
        net = build_network({"class": "EDMPrecond", "kwargs": SMALL})
    odd = "\x1b[2J\u202e\r"
    metadata = {
        odd: odd,
        "parents": {odd: odd},
        "list": [odd] * 5000,
        "method": {odd: [odd]},
        "nimg": odd,
        "dataset": 1,
    }
    save_network(net, tmp_path / "n.safetensors", metadata)
    shown = command("sida", "info", tmp_path / "n.safetensors")
    assert r"\x1b[2J" in shown
    assert all(line.isprintable() and len(line) < 400 for line in shown.splitlines())
    write_genuine(tmp_path / "n.pkl", net, **{odd: 1})
    assert all(line.isprintable() for line in command("sida", "info", tmp_path / "n.pkl").splitlines())
