"""Numbers of heads, which no tensor states, by pictures of the training: others denoise them worse."""

import json
import shlex

import pytest
import torch

from sida.data import load_dataset
from sida.networks import build_network
from sida.networks.file import load_network
from sida.plugins.transformers import readings
from sida.plugins.transformers.networks import SiTPrecond
from sida.training.teacher import VelocityLoss
from sida.workflow.cli import main
from tests.refused import command, refused

SIZES = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "hidden_size": 64, "depth": 1}
TABLE = "y_embedder.embedding_table.weight"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def words(heads, **data):
    """Words of a conversion that compares numbers of heads on digits."""
    network = {"class": "SiTPrecond", "kwargs": {"num_heads": heads, "label_dim": 10}}
    spec = {"name": "digits", "kind": "digits", **data}
    return ["convert", "weights.pt", "net.safetensors", "--network", json.dumps(network), "--data", json.dumps(spec)]


def converted(capsys, *arguments):
    """The last line beside the result of a conversion."""
    assert main([*arguments]) == 0
    return capsys.readouterr().err.splitlines()[-1]


def trained(heads, steps=100):
    """State dict, which is saved, of a network after some steps on digits."""
    data = load_dataset({"name": "digits", "kind": "digits"})
    images, labels = data.network_input(data.images(range(len(data)))), data.labels(range(len(data)))
    net = build_network({"class": "SiTPrecond", "kwargs": {**SIZES, "num_heads": heads}})
    net.drops_labels = True
    optimizer, loss = torch.optim.Adam(net.parameters()), VelocityLoss()
    for step in range(steps):
        part, optimizer.param_groups[0]["lr"] = torch.randint(len(images), (64,)), 4e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss(net, images[part], labels[part]).mean().backward()
        optimizer.step()
    torch.save(net.state_dict(), "weights.pt")
    return net.state_dict()


def test_the_networks_own_heads_denoise_best(capsys, monkeypatch):
    """Whether the pictures have classes or not, but a few pictures decide nothing."""
    classes, original = [], SiTPrecond.classes_of
    monkeypatch.setattr(SiTPrecond, "classes_of", lambda *given: classes.append(original(*given)) or classes[-1])
    state = trained(4)
    for labels in (True, False):
        error = refused("^weights.pt: num_heads 2 leaves .* num_heads 4 leaves", command, *words(2, labels=labels))
        said = converted(capsys, *words(4, labels=labels))
        assert "num_heads 4 leaves" in said
        assert said.endswith("confirmed")
        assert said == converted(capsys, *words(4, labels=labels))
        assert bool((classes[-1] == 10).any()) != labels
    option = shlex.split(str(error).partition("name it: ")[2])
    assert command("convert", "weights.pt", "net.safetensors", *option) == "net.safetensors: SiTPrecond\n"
    assert load_network("net.safetensors")[1]["network"]["kwargs"]["num_heads"] == 4
    for heads in (1, 4):
        said = converted(capsys, *words(heads, max_size=12))
        assert "decides nothing (4 standard errors of at least 16 images" in said
    # Without a row for no class each picture needs one.
    torch.save({**state, TABLE: state[TABLE][:10]}, "weights.pt")
    assert converted(capsys, *words(4)).endswith("confirmed")
    refused("--data: label_dim: 10, but .* has 0", command, *words(4, labels=False))


@pytest.mark.slow
def test_the_best_number_is_neither_the_least_nor_the_largest(capsys, monkeypatch):
    """A difference within its scatter decides nothing."""
    trained(2)
    refused('num_heads 2 leaves .*"num_heads": 2', command, *words(1))
    assert "num_heads 2 leaves" in converted(capsys, *words(2))
    monkeypatch.setattr(readings, "CLEAR", 30.0)
    for heads in (1, 2):
        assert "decides nothing (30 standard errors" in converted(capsys, *words(heads))


@pytest.mark.parametrize("std", [0.0, 0.02, 0.2])
def test_weights_that_denoise_nothing_decide_nothing(std, capsys):
    state = trained(4, steps=0)
    torch.save({name: value + std * torch.randn(value.shape) for name, value in state.items()}, "weights.pt")
    assert "decides nothing (check that the weights are trained" in converted(capsys, *words(2))


def test_published_sizes_compare_numbers_that_can_be():
    for width, own, others in ((1152, 16, [9, 12, 18, 24, 32, 36, 48, 64]), (384, 12, [3, 4, 6, 8, 16, 24])):
        kwargs = {"hidden_size": width, "num_heads": own}
        assert readings.other_heads(kwargs) == others
