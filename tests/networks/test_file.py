"""Our own files: equal content gives equal bytes, and damage or an absurd claim is one line that names the file."""

import json
import math
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sida.config.lookup import ROOT
from sida.files.tensors import read_tensor_header, read_tensors, write_tensors
from sida.networks import EDMPrecond, build_network
from sida.networks.file import build_on_meta, load_network, read_metadata, save_network
from sida.networks.official import import_network
from tests.files.made_pickles import write_genuine
from tests.near import assert_near, is_copy
from tests.networks.made import SMALL, random_network
from tests.refused import command, content_refused, refused

METADATA = {"method": "sid", "nimg": 3000, "dataset": "digits", "parents": {"teacher": "ab" * 32}}


@pytest.fixture
def net() -> EDMPrecond:
    return random_network("EDMPrecond", SMALL, std=1)


@pytest.fixture
def file(net, tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(net, path, METADATA)
    return path


def test_a_network_comes_back_and_leaves_the_draws_of_the_caller_as_they_are(net, file):
    random = torch.get_rng_state()
    loaded, metadata = load_network(file)
    assert is_copy(torch.get_rng_state(), random)
    assert {k: metadata[k] for k in METADATA} == METADATA
    assert metadata["network"] == net.init_config
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.5]), torch.eye(3)[:2]
    assert_near(loaded(x, sigma, labels), net(x, sigma, labels))


def test_half_precision_that_is_not_float16_is_in_the_file(net, tmp_path, file):
    assert load_network(file)[0].half_dtype == torch.float16
    assert "half_dtype" not in read_metadata(file)["network"]["kwargs"]
    path = tmp_path / "bfloat16.safetensors"
    net.half_dtype = torch.bfloat16
    save_network(net, path, METADATA)
    loaded, metadata = load_network(path)
    assert loaded.half_dtype == build_network(metadata["network"]).half_dtype == torch.bfloat16
    assert re.search(r"half_dtype +\"bfloat16\"", command("info", path))
    # The folder of a run, as `sida score` takes it.
    (tmp_path / "run").mkdir()
    shutil.copyfile(path, tmp_path / "run/network.safetensors")
    assert "run/network.safetensors" in command("info", tmp_path / "run")
    # Equal content gives equal bytes.
    loaded.half_dtype = torch.float16
    save_network(loaded, path, dict(reversed(METADATA.items())))
    assert path.read_bytes() == file.read_bytes()


def test_metadata_are_read_without_the_tensors(file):
    expected = read_metadata(file)
    data = bytearray(file.read_bytes())
    start = read_tensor_header(file).data_start
    data[start:] = b"\xff" * (len(data) - start)
    file.write_bytes(data)
    assert read_metadata(file) == expected


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
        (lambda tensors, record: record.update(network=None), "no architecture"),
        (lambda tensors, record: record.update(format="other"), "format"),
    ],
)
def test_what_does_not_fit_the_architecture_is_named(file, change, reason):
    tensors, record = read_tensors(file)
    change(tensors, record)
    write_tensors(file, tensors, record)
    assert str(file) in str(refused(reason, load_network, file))


def test_architectures_are_checked_without_their_memory_and_without_torch_s_compiler(file):
    tensors = build_on_meta(read_metadata(file)["network"], "f").state_dict().values()
    assert all(tensor.is_meta for tensor in tensors)
    # torch 2.5 imports sympy for any layer on the meta device.
    code = "import sys, torch; torch.nn.Linear(2, 2, device='meta'); own = {*sys.modules}\n"
    code += "from sida.networks.file import load_network; load_network(sys.argv[1])\n"
    code += "print({'torch._dynamo', 'sympy'} & ({*sys.modules} - own))"
    assert subprocess.check_output([sys.executable, "-c", code, str(file)], cwd=ROOT) == b"set()\n"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda net: next(net.parameters()).data.fill_(math.nan), "NaN or infinity"),
        (lambda net: net.__dict__.pop("init_config"), "no architecture"),
    ],
)
def test_a_network_that_nobody_could_load_is_not_written_and_the_old_file_stays(net, file, change, word):
    before = file.read_bytes()
    change(net)
    refused(word, save_network, net, file, {})
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


# Claims of strangers


def with_header(header: dict, body: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def our_network(**kwargs: object) -> bytes:
    """A file of our format with an architecture and 3,000 tensors of one number."""
    record = {"format": "sida-network-1", "network": {"class": "EDMPrecond", "kwargs": {**SMALL, **kwargs}}}
    entries = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(3000)}
    return with_header({"__metadata__": {"sida": json.dumps(record)}, **entries}, bytes(3000))


def test_weights_of_another_program_name_the_way_to_measure_them(tmp_path):
    theirs, state, out = tmp_path / "theirs.safetensors", tmp_path / "state.pt", tmp_path / "out.safetensors"
    save_file({"layer.weight": torch.zeros(1)}, theirs)
    torch.save({"layer.weight": torch.zeros(2), "layer.bias": torch.zeros(2)}, state)
    for path, read, more in ((theirs, load_network, []), (state, import_network, [out])):
        assert str(refused(r"score\.md, 'A function'", read, path, *more)).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: our_network(num_blocks=64, img_resolution=4096, channel_mult=[1] * 13), "tensors differ"),
        (lambda: our_network(channel_mult=[1] * 2000), "channel_mult: must have at most 32 entries"),
        (lambda: our_network(model_type="x" * 1_000_000), "model_type"),
        (lambda: our_network(attn_resolutions=[[[[]]]] * 50_000), "attn_resolutions"),
        (lambda: with_header({str(n): {} for n in range(500_001)}), "has more than 500,000 values"),
    ],
)
def test_an_absurd_header_is_refused_before_anything_is_built(tmp_path, content, reason):
    content_refused(tmp_path / "n.safetensors", content(), reason, load_network)


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


def test_info_prints_nothing_that_a_terminal_obeys(net, tmp_path):
    odd = "\x1b[2J\u202e\r"
    metadata = {odd: odd, "parents": {odd: odd}, "list": [odd] * 5000, "method": {odd: [odd]}, "nimg": odd}
    save_network(net, tmp_path / "n.safetensors", metadata)
    shown = command("info", tmp_path / "n.safetensors")
    assert r"\x1b[2J" in shown
    assert all(line.isprintable() and len(line) < 400 for line in shown.splitlines())
    write_genuine(tmp_path / "n.pkl", net, **{odd: 1})
    assert all(line.isprintable() for line in command("info", tmp_path / "n.pkl").splitlines())
