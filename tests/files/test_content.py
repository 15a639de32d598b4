"""A text in the place of a file is named at every door."""

import numpy as np
import pytest

from sida.eval.measuring.reference_files import read_moments
from sida.eval.measuring.stores import open_images
from sida.files.content import placeholder_in
from sida.networks.official import describe_file, import_network
from tests.data.test_archive import png, write_folder
from tests.refused import refused

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 98765\n"
PAGE = b"\xef\xbb\xbf\n" + "<html lang=de><head><title>Anmeldung für Gäste</title></head>".encode("latin-1")
TEXTS = {
    "Git LFS to a file of 98,765 bytes": POINTER,
    "git-annex": b"/annex/objects/SHA256E-s12--00.pkl\n",
    "a web page": PAGE,
    "message in XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "index of shards": b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "settings of diffusers": b'{\n  "_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}',
    "Python code": b"# Draws.\nimport torch\n\n\ndef draw(seeds):\n    return torch.zeros(1)\n",
    "a text .'Entry not found'": b"Entry not found",
}


def weights(path):
    return import_network(path, path.with_name("out.safetensors"), network={"class": "EDMPrecond"})


DOORS = {
    "net.pkl": describe_file, "net.pt": weights, "net.safetensors": weights, "stats.npz": read_moments,
    "stats.pkl": read_moments, "images.npz": open_images, "images.zip": open_images, "a-images-idx3-ubyte": open_images,
}  # fmt: skip


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_in_the_place_of_a_file_is_named_at_each_door(name, kind, tmp_path):
    (tmp_path / name).write_bytes(TEXTS[kind])
    refused(f"{name}: is .*{kind}.*; .", DOORS[name], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("start", "fault"),
    [(b"\x1f\x8b\x08" + bytes(20), "gzip; unpack"), (b"net.pkl".ljust(257, b"\0") + b"ustar\0", "tar archive")],
)
def test_packed_weights_are_named(start, fault, tmp_path):
    (tmp_path / "net.pt").write_bytes(start)
    refused(fault, weights, tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("name", "start", "remedy"),
    [
        ("net.onnx", b"\x08\x08\x12\x07pytorch", "safetensors or by torch.save"),
        ("net.gguf", b"GGUF\3\0\0\0", "torch.save"),
        ("net.bin", b"\x84\xa6params" + bytes(9), "torch.save"),
        ("a.png", b"\x89PNG\r\n", "sida score"),
    ],
)
def test_what_is_no_network_is_sent_to_where_it_is_read(name, start, remedy, tmp_path):
    (tmp_path / name).write_bytes(start)
    refused(f"{name}: .*; .*{remedy}", describe_file, tmp_path / name)


@pytest.mark.parametrize(("name", "fault"), [("0.png", "not a picture"), ("dataset.json", "not a list of labels")])
@pytest.mark.parametrize("text", [POINTER, PAGE], ids=["pointer", "page"])
def test_a_text_in_the_place_of_a_member_is_named(text, name, fault, tmp_path):
    write_folder(tmp_path / "in", {"0.png": png(np.zeros((8, 8), np.uint8)), name: text})
    refused(f"{name}: is .*{fault}", lambda: open_images(tmp_path / "in").read(0, 1))


def test_binary_files_are_no_texts():
    array = np.random.default_rng(0).integers(1, 256, 4096, np.uint8).tobytes()
    for start in (b"\x80\x02}q\0", b"PK\3\4", b"\x93NUMPY", b"(dp0\nS'mu'", b"\0\0\x08\3", b"\x1f\x8b", b"", array):
        assert placeholder_in(start) is None
