"""Our own files: equal content gives equal bytes, and damage or an absurd claim is one line that names the file."""

from __future__ import annotations

import json
import math
import re
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sida.cli.main import main
from sida.config.resources import ROOT
from sida.files.tensors import read_tensor_header, read_tensors, write_tensors
from sida.networks import EDMPrecond, build_network
from sida.networks.file import build_on_meta, load_network, read_metadata, save_network
from sida.networks.official import import_network
from tests.files.made_pickles import write_genuine
from tests.networks.made import SMALL, random_network
from tests.refused import command, content_refused, refused

METADATA = {"method": "sid", "nimg": 3000, "dataset": "digits", "parents": {"teacher": "ab" * 32}}


def small_net() -> EDMPrecond:
    return random_network("EDMPrecond", SMALL, std=1)


@pytest.fixture(scope="module")
def net() -> EDMPrecond:
    return small_net()


@pytest.fixture
def file(net, tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(net, path, METADATA)
    return path


def test_half_precision_that_is_not_float16_is_in_the_file(tmp_path, file, capsys):
    assert load_network(file)[0].half_dtype == torch.float16
    assert "half_dtype" not in read_metadata(file)["network"]["kwargs"]
    path, other = tmp_path / "bfloat16.safetensors", small_net()
    other.half_dtype = torch.bfloat16
    save_network(other, path, METADATA)
    loaded, metadata = load_network(path)
    assert loaded.half_dtype == build_network(metadata["network"]).half_dtype == torch.bfloat16
    assert main(["info", str(path)]) == 0
    assert re.search(r"half_dtype +\"bfloat16\"", capsys.readouterr().out)
    loaded.half_dtype = torch.float16
    save_network(loaded, path, METADATA)
    assert path.read_bytes() == file.read_bytes()


def test_a_network_comes_back_with_equal_outputs_and_its_provenance(net, file):
    loaded, metadata = load_network(file)
    assert {k: metadata[k] for k in METADATA} == METADATA
    assert metadata["network"] == net.init_config
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.5]), torch.eye(3)[:2]
    assert torch.equal(loaded(x, sigma, labels), net.eval()(x, sigma, labels))


def test_loading_leaves_the_draws_of_the_caller_as_they_are(file):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_network(file)
    assert torch.equal(torch.rand(3), expected)


def test_equal_content_gives_equal_bytes(file, tmp_path):
    loaded, metadata = load_network(file)
    save_network(loaded, tmp_path / "again.safetensors", dict(reversed(metadata.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_metadata_are_read_without_the_tensors(file):
    expected = read_metadata(file)
    data = bytearray(file.read_bytes())
    start = read_tensor_header(file).data_start
    data[start:] = b"\xff" * (len(data) - start)
    file.write_bytes(data)
    assert read_metadata(file) == expected
    refused(r"damaged: its tensors do not have .* SHA-256", load_network, file)


CONFIG = {"class": "EDMPrecond", "kwargs": {"img_resolution": 8, "img_channels": 1}}
NAME = "model.map_layer0.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors, record: tensors.pop(NAME), "the file has none"),
        (lambda tensors, record: tensors.update(extra=torch.zeros(1)), "'extra': .* EDMPrecond needs none"),
        (
            lambda tensors, record: tensors.update({NAME: tensors[NAME].T}),
            r"the file has \[8, 32\], .* needs \[32, 8\]",
        ),
        (lambda tensors, record: tensors[NAME].fill_(math.nan), "NaN or infinity"),
        (lambda tensors, record: record["network"].update({"class": "EDMPrecnd"}), "did you mean 'EDMPrecond'"),
        (lambda tensors, record: record.update(network=CONFIG), "tensor"),
        (lambda tensors, record: record.update(network={"class": ["EDMPrecond"], "kwargs": {}}), "no architecture"),
        (lambda tensors, record: record.update(network=None), "no architecture"),
        (lambda tensors, record: record.update(format="other"), "format"),
    ],
)
def test_what_does_not_fit_the_architecture_is_named(file, change, reason):
    tensors, record = read_tensors(file)
    change(tensors, record)
    write_tensors(file, tensors, record)
    assert str(file) in str(refused(reason, load_network, file))


IMAGENET = {"img_resolution": 64, "label_dim": 1000}
PUBLISHED = [
    {"class": "EDMPrecond", "kwargs": {**IMAGENET, "img_channels": 3, "model_channels": 192}},
    {"class": "EDM2Precond", "kwargs": {**IMAGENET, "img_channels": 4, "model_channels": 448}},
]


@pytest.mark.parametrize("config", PUBLISHED, ids=["adm", "edm2-xxl"])
def test_the_architecture_of_a_large_network_is_checked_without_its_memory(config):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net = build_on_meta(config, "f")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert sum(p.numel() for p in net.parameters()) > 50_000_000


def test_loading_does_not_import_torch_s_compiler(file):
    script = "import json, sys; from sida.networks.file import load_network as load; load(sys.argv[1])"
    script += "; from sida.networks.file import build_on_meta as build"
    script += "; [build(config, 'f') for config in json.loads(sys.argv[2])]"
    script += "; print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file), json.dumps(PUBLISHED)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda net: next(net.parameters()).data.fill_(math.nan), "NaN or infinity"),
        (lambda net: net.__dict__.pop("init_config"), "no architecture"),
    ],
)
def test_a_network_that_nobody_could_load_is_not_written_and_the_old_file_stays(file, change, word):
    before, net = file.read_bytes(), small_net()
    change(net)
    refused(word, save_network, net, file, {})
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


# Claims of strangers


WIDE = b"9223372036854775807," * 100_000


def raw_header(raw: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw


def with_header(header: dict, body: bytes = b"") -> bytes:
    return raw_header(json.dumps(header).encode()) + body


def our_network(kwargs: dict, tensors: int = 3000) -> bytes:
    """A file of our format with an architecture and so many tensors of one number."""
    record = {"format": "sida-network-1", "network": {"class": "EDMPrecond", "kwargs": kwargs}}
    entries = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(tensors)}
    return with_header({"__metadata__": {"sida": json.dumps(record)}, **entries}, bytes(tensors))


def test_weights_of_another_program_name_the_way_to_measure_them(tmp_path):
    theirs, state, out = tmp_path / "theirs.safetensors", tmp_path / "state.pt", tmp_path / "out.safetensors"
    save_file({"layer.weight": torch.zeros(1)}, theirs)
    torch.save({"layer.weight": torch.zeros(2), "layer.bias": torch.zeros(2)}, state)
    for path, read, more in ((theirs, load_network, []), (state, import_network, [out])):
        assert str(refused(r"score\.md, 'A function'", read, path, *more)).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (our_network({**SMALL, "num_blocks": 64, "img_resolution": 4096, "channel_mult": [1] * 13}), "tensors differ"),
        (our_network({**SMALL, "channel_mult": [1] * 2000}), "channel_mult: must have at most 32 entries"),
        (our_network({**SMALL, "img_resolution": 10**6}), "img_resolution: must be between 1 and 4096"),
        (our_network({**SMALL, "model_channels": 65536, "channel_mult_noise": 65536}), "channel_mult_noise"),
        (our_network({**SMALL, "sigma_data": 10.0**300 * 10**300}), "no finite number"),
        (our_network({**SMALL, "model_type": "x" * 1_000_000}), "model_type"),
        (our_network({**SMALL, "attn_resolutions": [[[[]]]] * 50_000}), "attn_resolutions"),
        (raw_header(b'{"a":[' + b"[]," * 30_000_000 + b"[]]}"), "not a safetensors file"),
        (raw_header(b"{" + b",".join(b'"%d":{}' % n for n in range(1_200_000)) + b"}"), "has more than 500,000 values"),
        (raw_header(b'{"a":{"dtype":"U8","shape":[' + WIDE + b'1],"data_offsets":[0,0]}}'), "damaged"),
    ],
)
def test_an_absurd_header_is_refused_before_anything_is_built(tmp_path, content, reason):
    content_refused(tmp_path / "n.safetensors", content, reason, load_network)


def test_a_tensor_larger_than_the_memory_is_one_line(tmp_path):
    path = tmp_path / "n.safetensors"
    size = 1 << 35
    path.write_bytes(with_header({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}))
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size + size)  # a hole: nothing is stored
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, before[1]))
    try:
        refused("Cannot allocate memory", read_tensors, path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_record_is_nested_as_deep_as_people_nest(tmp_path):
    for depth, fits in ((60, True), (70, False), (900, False)):
        record = '{"a":' * depth + "1" + "}" * depth
        (tmp_path / "n.safetensors").write_bytes(with_header({"__metadata__": {"sida": record}}))
        if fits:
            assert read_tensors(tmp_path / "n.safetensors")[1]["a"]
        else:
            refused("nested more than 60 levels", read_tensors, tmp_path / "n.safetensors")


def test_info_prints_nothing_that_a_terminal_obeys(tmp_path):
    net = small_net()
    odd = "\x1b[2J\u202e\r"
    metadata = {odd: odd, "parents": {odd: odd}, "list": [odd] * 5000, "method": {odd: [odd]}, "nimg": odd}
    save_network(net, tmp_path / "n.safetensors", metadata)
    shown = command("info", tmp_path / "n.safetensors")
    assert r"\x1b[2J" in shown
    assert all(line.isprintable() and len(line) < 400 for line in shown.splitlines())
    write_genuine(tmp_path / "n.pkl", net, **{odd: 1})
    assert all(line.isprintable() for line in command("info", tmp_path / "n.pkl").splitlines())
