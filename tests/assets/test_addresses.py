"""Networks by address: fetched, checked and recorded like registered files; plain state dicts by their architecture."""

from __future__ import annotations

import json
import re

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import sida
from sida.assets.cache import fetch
from sida.assets.registry import asset_at
from sida.files.atomic import sha256_file
from sida.networks.file import load_network
from sida.workflow.preset.networks import import_folders
from tests.assets.fault_server import records
from tests.data.test_archive import write_folder
from tests.near import same_bits
from tests.plugins import needs
from tests.refused import command, refusal, refused
from tests.test_python import NETWORK, write_network


@pytest.fixture
def network(tmp_path):
    return write_network(tmp_path / "mine" / "network.safetensors")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_network_of_the_hub_is_named_or_the_only_one_and_pinned_at_its_first_use(site, network, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    site.add("some/repo/resolve/v1/sub/network.safetensors", network.read_bytes())

    def listed(*names: str) -> None:
        record = {"id": "some/repo", "siblings": [{"rfilename": name} for name in names]}
        site.add("api/models/some/repo/revision/v1", json.dumps(record).encode())

    listed("README.md", "sub/network.safetensors")
    for address in ("hf://some/repo@v1/sub/network.safetensors", "hf://some/repo@v1"):
        assert same_bits(sida.load(address).sample(3), sida.load(network).sample(3))
    asset = asset_at("hf://some/repo@v1/sub/network.safetensors")
    assert records(cache)[asset.target]["sha256"] == sha256_file(network)
    url = f"{site.url}/some/repo/resolve/v1/sub/network.safetensors"
    for address in ("hf://some/repo@v1", url):
        command("convert", f"{address}#sha256={sha256_file(network)}", cache / "copy")
        assert (cache / "copy").read_bytes() == network.read_bytes()
        refused("sha256", command, "convert", f"{address}#sha256={'0' * 64}", cache / "copy")
    for names, fault in ((("a.pkl", "b.safetensors"), "2 network files.*a.pkl, b.saf"), (["x.bin"], "0 network files")):
        listed(*names)
        refused(fault, fetch, "hf://some/repo@v1")
    refused("HF_TOKEN", fetch, "hf://some/other")


@needs("diffusers")
def test_a_pipeline_of_diffusers_is_fetched_file_by_file(site, cache, tmp_path, monkeypatch):
    from plugins.diffusers.tests.pipelines import write_pipeline

    monkeypatch.setenv("HF_ENDPOINT", site.url)
    folder = tmp_path / "ddpm"
    write_pipeline(folder)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    record = {"id": "some/repo", "siblings": [{"rfilename": name} for name in [*names, "checkpoint/unet.bin"]]}
    site.add("api/models/some/repo/revision/main", json.dumps(record).encode())
    for name in names:
        site.add(f"some/repo/resolve/main/{name}", (folder / name).read_bytes())
    command("convert", "hf://some/repo", tmp_path / "net.safetensors")
    assert sida.load(tmp_path / "net.safetensors").info["origin"]["url"] == "hf://some/repo"
    assert {asset_at(f"hf://some/repo/{name}").target for name in names} >= records(cache).keys()
    two = [sida.load(source, "heun:2").sample(3) for source in (folder, "hf://some/repo")]
    assert same_bits(*two)


def test_files_of_the_hubs_own_cache_need_no_network(network, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("HF_HUB_OFFLINE", fetch, "hf://some/repo/network.safetensors")
    commit = "a" * 40
    kept = {"refs/main": commit.encode(), f"snapshots/{commit}/network.safetensors": network.read_bytes()}
    write_folder(tmp_path / "hub" / "models--some--repo", kept)
    assert sida.load("hf://some/repo/network.safetensors").info["sha256"] == sha256_file(network)
    # The cache has what was asked for, and the repository may have other networks.
    assert refused("offline.*name one", fetch, "hf://some/repo").where == "hf://some/repo"


@pytest.mark.parametrize(
    "address",
    [
        "http://host/net.pkl", "https://host/net.pkl#sha256=12", "https://user:secret@host/net.pkl",
        "https://host/a b.pkl", "https://host:99999/x", "https://host:0/x", "https://[1:2/x", "https://a..b/x",
        "https://-a/x", "https://:80/x", "hf://only-owner/file.pkl", "hf://a/..@../evil/net.pkl",
        "hf://../b/net.pkl", "hf://a/./net.pkl",
    ],
)  # fmt: skip
def test_an_address_that_can_never_work_is_refused_before_it_is_asked(address):
    assert str(refused("", asset_at, address)).startswith(f"'{address}'")


@pytest.mark.parametrize("rest", ["..%2f..%2fetc", ".hidden", "a/", "x?name=/../../y"])
def test_names_of_addresses_stay_inside_the_cache(rest):
    assert re.fullmatch(r"addresses/\w+/[^./][^/]*", asset_at(f"https://h/{rest}").target)


def test_addresses_of_a_sheet_are_imported_into_folders_of_their_own():
    names = ["hf://a/b/network.safetensors", "https://h/network.pkl", "mine/network.safetensors"]
    folders = import_folders(names)
    assert list(folders) == names[:2]
    assert len(set(folders.values())) == 2
    assert all(folder.startswith("network-") for folder in folders.values())


@pytest.mark.parametrize(("prefix", "form"), [("module.", "ema"), ("", "safetensors")])
def test_a_plain_state_dict_loads_by_its_architecture_alone(tmp_path, network, prefix, form):
    net, _ = load_network(network)
    state = {f"{prefix}{name}": tensor.clone() for name, tensor in net.state_dict().items()}
    path, target, architecture = (tmp_path / name for name in (f"weights.{form}", "out.safetensors", "config.json"))
    save_file(state, path) if form == "safetensors" else torch.save({"ema": state, "step": 3}, path)
    convert = ["convert", path, target]
    other = json.dumps({**NETWORK, "kwargs": {**NETWORK["kwargs"], "model_channels": 16}})
    assert "needs" in refusal(command, *convert, "--network", other)
    assert "--network config.json" in refusal(command, *convert)
    assert not target.exists()
    architecture.write_text(json.dumps(NETWORK))
    command(*convert, "--network", architecture)
    assert same_bits(sida.load(target).sample(4), sida.load(network).sample(4))
    assert sida.load(target).info["origin"]["sha256"] == sha256_file(path)
