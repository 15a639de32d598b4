"""Our own files: equal content gives equal bytes, and every kind of damage is one line that names the file."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys

import pytest
import torch

from sida.cli.main import main
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.content_hash import HASH_KEY
from sida.files.tensors import TENSORS_HASH, read_tensor_header
from sida.networks import EDMPrecond, build_network
from sida.networks.file import build_on_meta, load_network, read_metadata, save_network
from tests.networks.made import SMALL, random_network

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


def rewrite(path, change) -> None:
    """Writes the file again with another header (JSON) and data, as a program that knows nothing of our hashes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    record = json.loads(header["__metadata__"]["sida"])
    for key in (TENSORS_HASH, HASH_KEY):
        record.pop(key, None)
    header["__metadata__"]["sida"] = json.dumps(record)
    body = change(header, bytearray(data[8 + length :]))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(body))


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


def test_equal_content_gives_equal_bytes(net, file, tmp_path):
    other = tmp_path / "again.safetensors"
    save_network(net, other, dict(reversed(METADATA.items())))
    assert other.read_bytes() == file.read_bytes()
    loaded, metadata = load_network(file)
    save_network(loaded, other, metadata)
    assert other.read_bytes() == file.read_bytes()


def test_wrapped_and_half_precision_networks_are_stored_plain_in_float32(file, tmp_path):
    net = small_net()
    wrapped = torch.nn.DataParallel(net)
    save_network(wrapped, tmp_path / "w.safetensors", METADATA)
    assert (tmp_path / "w.safetensors").read_bytes() == file.read_bytes()
    save_network(net.half(), tmp_path / "h.safetensors", METADATA)
    loaded, _ = load_network(tmp_path / "h.safetensors")
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32}


def test_metadata_are_read_without_the_tensors(file):
    expected = read_metadata(file)
    data = bytearray(file.read_bytes())
    start = read_tensor_header(file).data_start
    data[start:] = b"\xff" * (len(data) - start)
    file.write_bytes(data)
    assert read_metadata(file) == expected
    with pytest.raises(UserError, match=r"damaged: its tensors do not have .* SHA-256"):
        load_network(file)


def drop_tensor(header, body):
    name = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"][0])
    begin, _ = header.pop(name)["data_offsets"]
    return body[:begin]


def add_tensor(header, body):
    header["extra.weight"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    return body + b"\0" * 4


def reshape(header, body):
    name = next(k for k in header if k != "__metadata__" and len(header[k]["shape"]) == 4)
    header[name]["shape"] = header[name]["shape"][::-1]
    return body


def sida_header(**changes):
    def change(header, body):
        record = json.loads(header["__metadata__"]["sida"])
        record.update(changes)
        header["__metadata__"]["sida"] = json.dumps(record)
        return body

    return change


def put_nan(header, body):
    body[-4:] = b"\0\0\xc0\x7f"
    return body


CONFIG = {"class": "EDMPrecond", "kwargs": {"img_resolution": 8, "img_channels": 1}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_tensor, "misses tensor"),
        (add_tensor, "has unexpected tensor 'extra.weight'"),
        (reshape, "has shape"),
        (put_nan, "NaN or infinity"),
        (lambda header, body: header["__metadata__"].pop("sida") and body, "written by another program"),
        (sida_header(network={"class": "EDMPrecnd", "kwargs": {}}), "did you mean 'EDMPrecond'"),
        (sida_header(network=CONFIG), "tensor"),
        (sida_header(network={"class": "EDMPrecond"}), "no architecture"),
        (sida_header(network=None), "no architecture"),
        (sida_header(format="other"), "format"),
    ],
)
def test_what_does_not_fit_the_architecture_is_named(file, change, reason):
    rewrite(file, change)
    with pytest.raises(UserError, match=reason) as caught:
        load_network(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


IMAGENET = {"img_resolution": 64, "label_dim": 1000}
VP = {"img_resolution": 64, "img_channels": 3, "model_type": "SongUNet", "augment_dim": 9, "model_channels": 128}
VE = {**VP, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
PUBLISHED = [
    {"class": "EDMPrecond", "kwargs": {**IMAGENET, "img_channels": 3, "model_channels": 192}},
    {"class": "VPPrecond", "kwargs": VP},
    {"class": "EDMPrecond", "kwargs": {**VE, "resample_filter": [1, 3, 3, 1]}},
    {"class": "EDM2Precond", "kwargs": {**IMAGENET, "img_channels": 4, "model_channels": 448}},
]


@pytest.mark.parametrize("config", PUBLISHED, ids=["adm", "vp", "ncsnpp", "edm2-xxl"])
def test_the_architecture_of_a_large_network_is_checked_without_its_memory(config):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net = build_on_meta(config, 2000, "f")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert sum(p.numel() for p in net.parameters()) > 50_000_000


def test_loading_does_not_import_torch_s_compiler(file):
    script = "import json, sys; from sida.networks.file import load_network as load; load(sys.argv[1])"
    script += "; from sida.networks.file import build_on_meta as build"
    script += "; [build(config, 2000, 'f') for config in json.loads(sys.argv[2])]"
    script += "; print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file), json.dumps(PUBLISHED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def with_nan(net):
    next(net.parameters()).data.view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("change", "metadata", "word"),
    [
        (with_nan, {}, "NaN or infinity"),
        (lambda net: None, {"when": object()}, "JSON"),
        (lambda net: net.register_buffer("odd", torch.zeros(2, dtype=torch.complex64)), {}, "complex64"),
        (lambda net: net.__dict__.pop("init_config"), {}, "no architecture"),
    ],
)
def test_a_network_that_nobody_could_load_is_not_written_and_the_old_file_stays(file, change, metadata, word):
    before, net = file.read_bytes(), small_net()
    change(net)
    with pytest.raises(UserError, match=word):
        save_network(net, file, metadata)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
