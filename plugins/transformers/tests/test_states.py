"""State dicts of SiT, REPA and DiT: the class is the user's, sizes are the file's, and a wrong axis is noticed."""

import argparse
import re
import shlex
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sida.networks import build_network, check_null_label
from sida.networks.file import load_network
from sida.networks.official import import_network
from sida.plugins.transformers.readings import noise_left
from sida.plugins.transformers.states import SIZES as SIZES_BY_NAME
from sida.plugins.transformers.states import read_transformer
from tests.golden.vectors import below, load_tensors
from tests.near import assert_near, is_copy
from tests.refused import command, refused

SIZES = {"img_resolution": 8, "img_channels": 4, "label_dim": 3, "hidden_size": 48, "depth": 3, "num_heads": 4}
#: Numbers that no shape states.
STATED = {"num_heads": 4, "label_dim": 3}
RECORDED = {"sit_sigma": "SiTPrecond", "dit_sigma": "DiTPrecond", "repa": "REPAPrecond"}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def removing_noise(cls: str = "SiTPrecond"):
    """A network whose velocity is that of pure noise at any time, so that its denoised images are nearly zero."""
    net = build_network({"class": cls, "kwargs": SIZES}).eval()
    net.pos_embed.zero_()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        patch = torch.eye(16).reshape(16, 4, 2, 2)
        net.x_embedder.proj.weight[:32] = torch.cat([patch, -patch])
        # The norm of a token is about half of its noise; values of a patch are ordered row, column, channel.
        place = torch.arange(16).reshape(4, 2, 2).permute(1, 2, 0).flatten()
        sign = -1 if cls == "SiTPrecond" else 1
        net.final_layer.linear.weight[:, :16] = sign * 0.9 * torch.eye(16)[place]
    return net


def saved(state, path="weights.pt"):
    torch.save(state, path)
    return Path(path)


def converted(path, cls, **kwargs):
    import_network(path, "net.safetensors", network={"class": cls, "kwargs": {**STATED, **kwargs}})
    return load_network("net.safetensors")


def test_shares_of_noise():
    """The denoised images of both axes add up to the input at σ = 1."""
    right, wrong = removing_noise(), build_network({"class": "REPAPrecond", "kwargs": SIZES}).eval()
    wrong.load_state_dict(right.state_dict())
    assert abs(noise_left(right, 1.0)) < 0.15
    assert noise_left(right, 1.0) + noise_left(wrong, 1.0) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", ["bare", "entry", "parallel", "safetensors"])
def test_sizes_come_from_the_file(kind):
    net = removing_noise()
    state = net.state_dict()
    if kind == "safetensors":
        path = Path("weights.safetensors")
        save_file(state, path)
    elif kind == "entry":
        path = saved({"model": {}, "ema": state, "args": argparse.Namespace(model="SiT-B/2")})
    else:
        path = saved({f"module.{name}": value for name, value in state.items()} if kind == "parallel" else state)
    found, record = converted(path, "SiTPrecond", label_dropout=0.2)
    assert record["network"]["kwargs"] == {**net.init_config["kwargs"], "label_dropout": 0.2}
    assert is_copy(found.state_dict(), state)


@pytest.mark.parametrize(("name", "cls"), RECORDED.items())
def test_recorded_states_become_the_official_networks(name, cls, capsys):
    """Also without REPA's alignment heads, which is said; random weights denoise nothing, which is said, too."""
    arrays, info = load_tensors(f"sit/{name}")
    path = saved(below(arrays, "param/"))
    net, record = converted(path, cls, num_heads=info["kwargs"]["num_heads"], label_dim=info["kwargs"]["num_classes"])
    labels = torch.eye(net.label_dim + 1)[arrays["in/y"]][:, :-1]
    raw = net.body(arrays["in/x"], arrays["in/t"].float(), labels, None, "decoder", None)
    expected = arrays["out/eps_and_variance"][:, :4] if cls == "DiTPrecond" else arrays["out/velocity"]
    assert_near(raw, expected)
    assert ("projectors" in record["origin"].get("left_out", "")) == (name == "repa")
    assert ("without 6 tensors of alignment heads" in capsys.readouterr().err) == (name == "repa")


@pytest.mark.parametrize(
    ("arguments", "kwargs", "classes", "told"),
    [
        ({"num_classes": 4}, {}, 4, ""),
        ({"num_classes": 3}, {}, 3, ""),
        ({"model": {"cfg_prob": 0.0}}, {}, 4, ""),
        ({"class_dropout_prob": 0.2}, {}, 3, ""),
        ({"milestones": Counter({10: 1})}, {}, 3, "3 classes and no class, the default.*name label_dim"),
        (defaultdict(list), {}, 3, "3 classes and no class, the default"),
        ({}, {"label_dim": 4}, 4, ""),
        ({"num_classes": 3}, {"label_dim": 4}, 4, "label_dim 4 as named; the file's arguments say 3"),
    ],
)
def test_a_label_table_is_read_by_the_files_arguments_or_the_user(arguments, kwargs, classes, told, capsys):
    """A table without a row for no class gets one of zeros, and no guidance by it."""
    state = removing_noise().state_dict()
    table = state["y_embedder.embedding_table.weight"].normal_().clone()
    network = {"class": "SiTPrecond", "kwargs": {"num_heads": 4, **kwargs}}
    import_network(saved({"ema": state, "config": arguments}), "net.safetensors", network=network)
    net, record = load_network("net.safetensors")
    rows = torch.cat([table, torch.zeros(classes - 3, 48)])
    assert is_copy(net.y_embedder.embedding_table.weight, rows)
    assert net.label_dim == classes
    if classes == 4:
        refused("label_dropout 0.*guiding network", check_null_label, record["network"], "guide")
    said = capsys.readouterr().err
    assert re.search(told, said) if told else "classes" not in said


def test_a_label_table_for_another_number_of_classes_is_refused():
    path = saved({"ema": removing_noise().state_dict(), "args": argparse.Namespace(num_classes=7)})
    network = {"class": "SiTPrecond", "kwargs": {"num_heads": 4}}
    error = refused("7, but .* 4 rows.*give 3, or 4", import_network, path, "net.safetensors", network=network)
    assert error.where.endswith("network.kwargs.label_dim")


@pytest.mark.parametrize(
    ("arguments", "kwargs", "heads", "told"),
    [
        ({"num_heads": 12}, {}, 12, ""),
        ({"model": "SiT-S/2"}, {}, 8, ""),
        ({"num_heads": 12}, {"num_heads": 3}, 3, "num_heads 3 as named; the file's arguments say 12"),
    ],
)
def test_heads_are_those_of_the_files_arguments_or_their_size(arguments, kwargs, heads, told, monkeypatch):
    monkeypatch.setitem(SIZES_BY_NAME, "S", (3, 48, 8))
    shapes = {name: tuple(value.shape) for name, value in removing_noise().state_dict().items()}
    reading = read_transformer("SiTPrecond", {}, shapes, kwargs, {"num_classes": 3, **arguments})
    assert reading.kwargs["num_heads"] == heads
    assert told in "; ".join(reading.remarks)
    assert bool(told) == bool(reading.remarks)


@pytest.mark.parametrize("cls", ["SiTPrecond", "REPAPrecond"])
def test_a_training_on_other_paths_is_refused(cls):
    path = saved({"ema": removing_noise(cls).state_dict(), "args": argparse.Namespace(path_type="Linear")})
    converted(path, cls)
    path = saved({"ema": removing_noise(cls).state_dict(), "args": argparse.Namespace(path_type="GVP")})
    refused("trained with path_type GVP.*linear", converted, path, cls)


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "net.", "generator.module.", "_forward_module.model."])
@pytest.mark.parametrize("cls", ["REPAPrecond", "DiTPrecond"])
def test_prefixes_are_taken_off(cls, prefix, capsys):
    state = build_network({"class": cls, "kwargs": SIZES}).state_dict()
    other = {"loss.weight": torch.zeros(2), f"{prefix}step": torch.tensor(3.0)}
    net, _ = converted(saved({prefix + name: value for name, value in state.items()} | other), cls)
    assert is_copy(net.state_dict(), state)
    assert f"prefix '{prefix}' taken off; 2 other tensors left out" in capsys.readouterr().err


def test_one_of_two_transformers_is_named_by_its_prefix():
    state = removing_noise().state_dict()
    both = {f"{who}.{name}": value + (who == "old") for who in ("old", "new") for name, value in state.items()}
    path = saved(both)
    refused("2 networks, by the prefixes old, new; .*--key", converted, path, "SiTPrecond")
    import_network(path, "net.safetensors", network={"class": "SiTPrecond", "kwargs": STATED}, key="new")
    assert is_copy(load_network("net.safetensors")[0].pos_embed, state["pos_embed"])


def test_earlier_names_of_repa():
    state = removing_noise("REPAPrecond").state_dict()
    old = {}
    for name, value in state.items():
        number = int(name.split(".")[1]) if name.startswith("blocks.") else 0
        old[name.replace(f"blocks.{number}.", f"decoder_blocks.{number - 1}.") if number else name] = value
    assert "decoder_blocks.1.attn.qkv.weight" in old
    net, _ = converted(saved(old), "REPAPrecond")
    converted_state = net.state_dict()
    assert converted_state.keys() == state.keys()
    assert is_copy(converted_state, state)


@pytest.mark.parametrize(("file", "read_as"), [("SiTPrecond", "REPAPrecond"), ("REPAPrecond", "SiTPrecond")])
def test_a_file_of_the_other_axis_is_refused(file, read_as):
    path = saved(removing_noise(file).state_dict())
    network = {"class": read_as, "kwargs": STATED}
    told = f"weights.pt: read as {read_as}, its output is not a denoised image: .* at σ = 1 .*; read it as {file} "
    refused(told, import_network, path, "net.safetensors", network=network)
    assert not Path("net.safetensors").exists()


def test_an_output_that_is_no_denoising_is_said(capsys):
    state = removing_noise().state_dict()
    state["final_layer.linear.weight"].zero_()
    converted(saved(state), "SiTPrecond")
    assert "weights.pt: read as SiTPrecond, its output is not a denoised image: 50% at" in capsys.readouterr().err
    converted(saved(removing_noise().state_dict()), "SiTPrecond")
    assert "denoised" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "kwargs", "told"),
    [
        ({}, {"num_heads": None}, 'the file does not say num_heads .*width 48.*name it.*"num_heads"'),
        ({"pos_embed": torch.zeros(1, 64, 48)}, {"img_resolution": 8}, r"pos_embed': the file has \[1, 64, 48\]"),
        ({"pos_embed": torch.zeros(3)}, {}, "not a transformer of SiT, REPA or DiT"),
        ({"blocks.0.attn.q_norm.weight": torch.zeros(3)}, {}, "q_norm.weight': the file has .* needs none"),
        ({"blocks.1.mlp.fc1.weight": torch.zeros(3, 48)}, {}, "blocks.1.mlp.fc1.weight': the file has"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(changes, kwargs, told):
    path = saved({**removing_noise().state_dict(), **changes})
    options = {key: value for key, value in {**STATED, **kwargs}.items() if value is not None}
    network = {"class": "SiTPrecond", "kwargs": options}
    refused(f"weights.pt: .*{told}", import_network, path, "net.safetensors", network=network)
    assert not Path("net.safetensors").exists()


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("arguments", [None, {"model": "DiT-XL/2"}, {"num_classes": 3, "lr": 1e-4}])
def test_numbers_that_nothing_states_are_asked_for_by_words_that_work(monkeypatch, published, arguments):
    """Of a published size, too: other heads fit its tensors and draw other images."""
    net = build_network({"class": "DiTPrecond", "kwargs": SIZES})
    saved({"ema": net.state_dict(), **({"args": arguments} if arguments else {})})
    if published:
        monkeypatch.setitem(SIZES_BY_NAME, "B", (3, 48, 4))
    words = ["weights.pt", "--network-class", "DiTPrecond"]
    told = "does not say num_heads" if arguments else "label_dim .*4 rows.* and num_heads"
    error = refused(f"network.kwargs: .*{told}", command, "convert", *words, "out.safetensors")
    assert not Path("out.safetensors").exists()
    option = [word.replace('"..."', "4") for word in shlex.split(str(error).partition("name it: ")[2])]
    assert command("convert", "weights.pt", "out.safetensors", *option) == "out.safetensors: DiTPrecond\n"
    assert load_network("out.safetensors")[1]["network"] == net.init_config
    refused(told, command, "info", *words)
    assert "DiTPrecond" in command("info", "weights.pt", *option)


@pytest.mark.parametrize(("rows", "asked"), [(1001, False), (1000, True), (11, True)])
def test_classes_are_known_of_imagenets_table_alone(rows, asked):
    shapes = {name: tuple(value.shape) for name, value in removing_noise().state_dict().items()}
    shapes["y_embedder.embedding_table.weight"] = (rows, 48)
    read = lambda: read_transformer("SiTPrecond", {}, shapes, {"num_heads": 4}, None)
    if asked:
        refused(f'{rows} rows.*"label_dim": {rows - 1}', read)
    else:
        assert read().kwargs["label_dim"] == 1000


def test_a_class_is_named_with_its_spelling():
    saved(build_network({"class": "DiTPrecond", "kwargs": SIZES}).state_dict())
    for verb in (["convert", "weights.pt", "other.safetensors"], ["info", "weights.pt"]):
        refused("--network-class: .*'DiTPrecnd' .*'DiTPrecond'", command, *verb, "--network-class", "DiTPrecnd")


def test_a_state_dict_is_described_without_a_conversion():
    net = build_network({"class": "SiTPrecond", "kwargs": SIZES})
    path = saved({"ema": net.state_dict(), "opt": {}, "args": argparse.Namespace(num_heads=4, num_classes=3)})
    said = command("info", path, "--network-class", "SiTPrecond")
    assert f"{sum(p.numel() for p in net.parameters()):,}" in said
    assert "state dict" in said
    assert "SiTPrecond" in said
