"""MeanFlow's networks: py-meanflow's numbers, forward derivatives, one step from noise, files of the authors."""

import pytest
import torch

from sida.errors import UserError
from sida.networks import build_network, checkpoint_blocks, family_of
from sida.networks.body import forward_derivatives
from sida.networks.file import load_network
from sida.networks.official import import_network
from sida.plugins.transformers.flows import flow
from sida.sampling import Drawer, Sampler, one_step
from tests.golden.vectors import below, load_tensors
from tests.near import assert_near, is_copy, relative_error
from tests.networks.made import random_network
from tests.refused import refused

UNET = {
    "img_resolution": 8, "img_channels": 2, "label_dim": 3, "augment_dim": 6, "model_channels": 8,
    "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4], "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
DIT = {
    "img_resolution": 8, "img_channels": 2, "label_dim": 3, "hidden_size": 48, "depth": 3, "num_heads": 4,
}  # fmt: skip
#: Attention of 400 positions takes fused kernels on a CPU, too.
WIDE = {**UNET, "img_resolution": 20, "channel_mult": [1], "attn_resolutions": [20]}
NETWORKS = {"unet": ("MeanFlowPrecond", UNET), "wide": ("MeanFlowPrecond", WIDE), "dit": ("MeanFlowDiT", DIT)}


def recorded():
    arrays, info = load_tensors("rivals/meanflow_net")
    kwargs = {key: value for key, value in info["kwargs"].items() if key not in ("in_channels", "out_channels")}
    return arrays, {**kwargs, "img_channels": info["kwargs"]["in_channels"]}


def official_network():
    arrays, kwargs = recorded()
    net = build_network({"class": "MeanFlowPrecond", "kwargs": kwargs})
    net.load_state_dict({f"model.{name}": value for name, value in below(arrays, "param/").items()})
    return net.eval(), arrays


def batch(net, n=5):
    rng = torch.Generator().manual_seed(1)
    z, tangent = torch.randn(2, n, 2, net.img_resolution, net.img_resolution, generator=rng)
    t = torch.rand(n, generator=rng)
    return z, t, t * torch.rand(n, generator=rng), torch.eye(3)[torch.arange(n) % 3], tangent


@torch.no_grad()
def test_outputs_equal_those_of_the_official_network():
    net, arrays = official_network()
    given, labels = [arrays[f"in/{name}"] for name in ("x", "t", "h")], arrays["in/augment_labels"]
    assert_near(net.mean_velocity(*given, augment_labels=labels), arrays["out/u"])
    assert_near(net.mean_velocity(*given), arrays["out/u_plain"])
    assert_near(one_step(net, arrays["sample/noise"], None, "infinite"), arrays["sample/images"])


@torch.no_grad()
def test_soflows_network_has_the_channels_of_attention_in_turn():
    """The same function as py-meanflow's with the rows of query, key and value reordered."""
    soflow, meanflow = (random_network(cls, UNET) for cls in ("SoFlowPrecond", "MeanFlowPrecond"))
    state = soflow.state_dict()
    given, labels = batch(soflow)[:3], batch(soflow)[3]
    rows = lambda value: value.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
    meanflow.load_state_dict({name: rows(value) if ".qkv." in name else value for name, value in state.items()})
    assert_near(meanflow.mean_velocity(*given, labels), soflow.mean_velocity(*given, labels))


def test_files_of_soflow_are_read_by_their_average(tmp_path, capsys):
    net = random_network("SoFlowPrecond", UNET)
    state = {f"network.{name.removeprefix('model.')}": value for name, value in net.state_dict().items()}
    last = {name: value + 1 for name, value in state.items()}
    torch.save({"model": last, "ema_model": state, "optimizer": {}}, path := tmp_path / "8.pt")
    network = {"class": "SoFlowPrecond", "kwargs": UNET}
    import_network(path, tmp_path / "net.safetensors", key="ema_model", network=network)
    read = load_network(tmp_path / "net.safetensors")[0].state_dict()
    assert is_copy(read, net.state_dict())
    assert "SoFlow" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prefix", "cls", "writer"),
    [("network.", "MeanFlowPrecond", "SoFlowPrecond"), ("net_ema1.", "SoFlowPrecond", "MeanFlowPrecond")],
)
def test_names_of_another_programs_network_are_said(prefix, cls, writer, tmp_path, capsys):
    """Both have tensors of the same shapes, and channels of attention in another order."""
    net = random_network(cls, UNET)
    state = {f"{prefix}{name.removeprefix('model.')}": value for name, value in net.state_dict().items()}
    torch.save(state, path := tmp_path / "net.pt")
    import_network(path, tmp_path / "net.safetensors", network={"class": cls, "kwargs": UNET})
    assert f"begin with {prefix}, as in files of {writer}" in capsys.readouterr().err


def test_heads_of_a_state_dict_are_asked_for(tmp_path):
    net = random_network("MeanFlowDiT", DIT)
    torch.save(net.state_dict(), path := tmp_path / "net.pt")
    unsaid = {name: value for name, value in DIT.items() if name != "num_heads"}
    convert = lambda kwargs: import_network(
        path, tmp_path / "net.safetensors", network={"class": "MeanFlowDiT", "kwargs": kwargs}
    )
    refused("num_heads", convert, unsaid)
    assert convert(DIT)["network"]["kwargs"].items() >= DIT.items()


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_derivatives_are_those_of_differences(name, recomputed):
    net = random_network(*NETWORKS[name])
    if recomputed:
        checkpoint_blocks(net, "checkpointing")
    z, t, h, labels, tangent = batch(net)
    of = lambda z, t, h: net.mean_velocity(z, t, h, labels)
    with torch.no_grad(), forward_derivatives():
        u, du = torch.func.jvp(of, (z, t, h), (tangent, torch.ones_like(t), torch.ones_like(t)))
        ends = [of(z + step * tangent, t + step, h + step) for step in (1e-2, -1e-2)]
    assert_near(u, of(z, t, h).detach())
    assert_near(du, (ends[0] - ends[1]) / 2e-2, 2e-2)
    assert not u.requires_grad


@torch.no_grad()
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_a_network_denoises_with_its_velocity_and_steps_with_its_mean_velocity(name):
    net = random_network(*NETWORKS[name])
    z, t, _, labels, _ = batch(net)
    sigma, scale = t / (1 - t), (1 - t).reshape(-1, 1, 1, 1)
    velocity = net.mean_velocity(z * scale, t, torch.zeros_like(t), labels)
    assert_near(net(z, sigma, labels), z * scale - (1 - scale) * velocity)
    assert_near(net.velocity(z, 0.25, labels), net.mean_velocity(z, torch.tensor(0.25), torch.tensor(0.0), labels))
    far = net.mean_velocity(z, torch.ones(1), torch.ones(1), labels)
    assert_near(net.from_noise(z, labels), z - far)
    # One Euler step of the flow has the velocity at noise, not the mean one.
    assert relative_error(flow(net, z, labels, 1, "euler", dtype=torch.float32), z - far) > 1e-4
    several = {"kind": "one_step", "init_sigma": "infinite", "num_steps": 2, "step_levels": "time"}
    refused("sampler.num_steps: .*set it to 1", Drawer(Sampler(**several), net).draw, [0], 1)
    # Lengths count.
    assert relative_error(net.mean_velocity(z, t, t, labels), net.mean_velocity(z, t, t / 2, labels)) > 1e-4


def test_published_sizes_and_families():
    """py-meanflow's network for CIFAR-10, and the authors' DiT-B/4, by their own code."""
    with torch.device("meta"):
        unet = build_network({"class": "MeanFlowPrecond", "kwargs": {**type_of("MeanFlowPrecond").CIFAR10}})
        dit = build_network({"class": "MeanFlowDiT", "kwargs": {**DIT_B4}})
    assert unet.model.map_layer0.weight.shape == (512, 512)
    assert unet.model.map_augment.weight.shape == (512, 6)
    assert dit.h_embedder.mlp[0].weight.shape == dit.t_embedder.mlp[0].weight.shape == (768, 256)
    assert (family_of(unet).name, family_of(dit).name) == ("mean-flow", "mean-flow-dit")
    assert (unet.fused, dit.fused) == (True, False)


#: Gsunshine/meanflow:configs/run_b4.yml.
DIT_B4 = {
    "img_resolution": 32, "img_channels": 4, "label_dim": 1000, "patch_size": 4, "hidden_size": 768, "depth": 12,
    "num_heads": 12,
}  # fmt: skip


def type_of(name):
    from sida.networks.file import NETWORKS as CLASSES

    return CLASSES[name]


@pytest.mark.parametrize("networks", [("",), ("net.", "net_ema."), ("net.", "net_ema.", "net_ema1.", "net_ema2.")])
@pytest.mark.parametrize("wrapper", ["", "module.model."])
def test_a_file_of_the_authors_gives_the_average_that_they_draw_with(wrapper, networks, tmp_path, capsys):
    arrays, kwargs = recorded()
    state = {}
    for number, prefix in enumerate(networks):
        state |= {f"{wrapper}{prefix}{name}": value + number for name, value in below(arrays, "param/").items()}
    torch.save(
        {"model": {**state, **({"num_updates": torch.tensor(7.0)} if len(networks) > 1 else {})}, "epoch": 3},
        tmp_path / "checkpoint.pth",
    )
    import_network(
        tmp_path / "checkpoint.pth",
        tmp_path / "net.safetensors",
        key="model",
        network={"class": "MeanFlowPrecond", "kwargs": kwargs},
    )
    net, _ = load_network(tmp_path / "net.safetensors")
    taken = next(name for name in ("net_ema1.", "net_ema.", "net.", "") if name in networks)
    expected = arrays["param/map_layer0.weight"] + networks.index(taken)
    assert_near(net.model.map_layer0.weight, expected)
    said = capsys.readouterr().err
    assert ("beside net_ema" in said) == (len(networks) > 1)
    assert ("prefix 'module.model.' taken off" in said) == bool(wrapper)


def test_another_file_is_one_line(tmp_path):
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"network\.class: .*py-meanflow"):
        import_network(tmp_path / "other.pth", tmp_path / "net.safetensors", network_class="MeanFlowPrecond")
