"""Published pickles: tiny files in the genuine layout become the same network, and nothing in them runs."""

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sida.config import registries
from sida.config.samplers import GeneratorSteps
from sida.eval.measuring.source import names_network
from sida.networks.file import load_network
from sida.networks.official import describe_file, find_source, import_network
from sida.sampling import multi_step
from sida.sampling.job import network_file
from tests.assets.fault_server import use_registry
from tests.files.made_pickles import MARK, add_hooks, write_genuine, write_torch
from tests.golden.vectors import agree, load_tensors
from tests.near import assert_near, is_copy
from tests.networks.made import SMALL, config, random_network, recorded_network
from tests.refused import command, refused, refusing


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path, monkeypatch):
    """The embedded source of every file would leave a mark in the current folder."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MARK).exists()


def tiny(cls: str = "EDMPrecond", **changes):
    return random_network(cls, {**SMALL, **changes}, std=1)


def edm2(**changes):
    return random_network(*config("edm2", use_fp16=False, **changes).values())


def equal(a, b) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return is_copy({name: value.float() for name, value in one.items()}, two)


def convert(path, **options):
    """The network, and its metadata, of a file that was imported."""
    out = path.with_suffix(".safetensors")
    metadata = import_network(path, out, **options)
    net, stored = load_network(out)
    assert stored == json.loads(json.dumps(metadata))
    assert stored["origin"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    return net, stored


def not_imported(path, reason, **options):
    with refusing(reason, str(path)):
        import_network(path, "refused.safetensors", **options)
    assert not Path("refused.safetensors").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_training_states_of_torch_save(zipped, monkeypatch):
    # The tensors of published files lie on GPUs; here only their description does.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
    net, path = tiny(), Path("state.pt")
    write_torch(path, net, zipped, "net")
    assert b"cuda:7" in path.read_bytes()
    assert equal(net, convert(path, key="net")[0])


def test_images_are_refused_where_the_tensors_say_all():
    net = tiny()
    write_genuine("net.pkl", net)
    convert(Path("net.pkl"))
    torch.save(net.state_dict(), "net.pt")
    words = ["out.safetensors", "--data", "digits"]
    for path in ("net.pkl", "net.safetensors"):
        refused(f"{path}: describes its architecture itself; .*--data", command, "convert", path, *words)
    words += ["--network", json.dumps(net.init_config)]
    refused("--data: the tensors of EDMPrecond .*; leave it out", command, "convert", "net.pt", *words)
    assert not Path("out.safetensors").exists()


def views(net):
    layer, wide = net.model.map_layer0, torch.randn(40, 40)
    rows, columns = layer.weight.shape
    layer.weight.data = wide[: 2 * columns : 2, 3 : 3 + rows].t()
    layer.bias.data = wide.view(-1)[7 : 7 + len(layer.bias)]
    assert not layer.weight.is_contiguous()


def harmless(net):
    net.handle = net.model.register_forward_pre_hook(net.model.zero_grad)
    net.dtypes = [torch.float16, np.float32, torch.device("cuda:1"), torch.Size([1, 2]), np.float64(0.5)]


ODD = {
    "half precision": lambda net: net.half(),
    "strides and shared memory": views,
    "large values": lambda net: net.model.map_layer1.weight.data.fill_(1e30),
    "hooks and types as attributes": harmless,
    "transient buffers": lambda net: net.model.register_buffer("scratch", torch.zeros(3), persistent=False),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_what_is_odd_but_no_fault_keeps_its_values(change):
    net = tiny()
    change(net)
    assert equal(net, convert(write_genuine("n.pkl", net, protocol=2))[0])


# The classes that released files hold: the network's in the file and ours, its U-Net's and ours.
RELEASED = [
    *((name, name, unet, unet) for name in ("EDMPrecond", "GDDPrecond") for unet in ("SongUNet", "DhariwalUNet")),
    ("ECMPrecond", "ECTPrecond", "SongUNet", "SongUNet"),
    ("EDMPrecond_EncoderDecoder", "EDMPrecond", "SongUNet_EncoderDecoder", "SongUNet"),
    ("EDMPrecond_EncoderDecoder", "EDMPrecond", "DhariwalUNet_EncoderDecoder", "DhariwalUNet"),
    ("Precond", "EDM2Precond", "UNet", "EDM2UNet"),
    ("EDM_2_Precond_EncoderDecoder", "EDM2Precond", "UNet_EncoderDecoder", "EDM2UNet"),
    ("EDM_2_Precond_Generator", "EDM2Precond", "UNet_EncoderDecoder", "EDM2UNet"),
]


SIDA_EDM2 = {"EDM2Precond": "EDM_2_Precond_Generator", "EDM2UNet": "UNet_EncoderDecoder", "EDM2Block": "Block"}


def official_kwargs(net, **switches):
    kwargs = dict(net.init_config["kwargs"], **switches)
    del kwargs["weight_norm"]
    if kwargs["logvar_channels"] is None:
        del kwargs["logvar_channels"]
    return kwargs


@pytest.mark.parametrize(("name", "cls", "unet_name", "unet"), RELEASED)
@torch.no_grad()
def test_every_class_that_a_released_file_can_hold(name, cls, unet_name, unet):
    if cls == "EDM2Precond":
        net = edm2(**({"logvar_channels": None} if name.endswith("Generator") else {}))
        kwargs = official_kwargs(net)
    else:
        net = tiny(cls, model_type=unet)
        kwargs = {**net.init_config["kwargs"], "model_type": unet_name}
    converted, metadata = convert(write_genuine("n.pkl", net, kwargs, renamed={cls: name, unet: unet_name}))
    assert metadata["origin"]["class"] == name
    assert metadata["network"] == net.init_config
    assert equal(net, converted)
    x, sigma = torch.randn(2, net.img_channels, 8, 8), torch.tensor([0.5, 2.5])
    labels = torch.eye(net.label_dim)[:2]
    assert_near(converted(x, sigma, labels), net(x, sigma, labels))


def test_a_network_that_is_not_read_is_named_with_a_way_to_score_it(monkeypatch):
    path = write_genuine("n.pkl", tiny(), renamed={"EDMPrecond": "DiffiTPrecond"})
    not_imported(path, "'DiffiTPrecond' is not read.*sida score FOLDER --against REAL.*--network-class")
    monkeypatch.setattr(registries, "missing_plugins", {"networks": {"DiffiTPrecond": "mine"}}.get)
    not_imported(path, "'DiffiTPrecond' is in the plugin mine, which is not here")


def test_arguments_without_names_and_without_a_limit():
    net = tiny()
    kwargs = dict(net.init_config["kwargs"], sigma_max=math.inf)
    args = [kwargs.pop("img_resolution"), kwargs.pop("img_channels"), kwargs.pop("label_dim")]
    assert convert(write_genuine("n.pkl", net, kwargs, args))[1]["network"] == net.init_config
    # The fourth differs: float16 here, forced normalisation in SiDA's classes for EDM2.
    not_imported(write_genuine("n.pkl", net, kwargs, [*args, False]), "4 constructor arguments")


def test_the_class_can_be_named_where_the_file_is_ambiguous():
    """GDD draws in float32, whatever it was trained in."""
    path = write_genuine("n.pkl", tiny(use_fp16=True))
    net, metadata = convert(path, network_class="GDDPrecond")
    assert metadata["network"]["class"] == "GDDPrecond"
    assert not net.use_fp16
    assert convert(path)[0].use_fp16


@pytest.mark.parametrize(
    ("switches", "hook_training", "mode"),
    [
        ({"use_gan": True, "force_normalization": True}, True, "always"),
        ({"use_gan": True, "force_normalization": True}, False, "off"),
        ({"use_gan": True, "force_normalization": False}, None, "off"),
        ({"use_gan": False, "force_normalization": True}, None, "in_forward"),
        ({}, "own", "pre_hook"),
    ],
)
def test_forced_weight_normalisation_follows_the_hook(switches, hook_training, mode):
    """What each mode does: tests/networks/test_golden.py."""
    net = edm2(logvar_channels=None)
    if hook_training == "own":
        for layer in (module for module in net.modules() if type(module).__name__ == "MPConv"):
            layer._forward_pre_hooks[0] = layer.normalize_weight
    elif hook_training is not None:
        add_hooks(net, hook_training)
    path = write_genuine("n.pkl", net.half(), official_kwargs(net, **switches), renamed=SIDA_EDM2)
    converted, metadata = convert(path)
    assert equal(net, converted)
    assert converted.weight_norm == metadata["network"]["kwargs"]["weight_norm"] == mode


@pytest.mark.parametrize("switches", [{"use_gan": True, "force_normalization": False}, {"use_gan": False}, {}])
@torch.no_grad()
def test_a_student_of_edm2_draws_the_official_images(switches):
    """SiDA's and SiD's, and those from before the two switches existed."""
    weights, info = load_tensors("losses_edm2/networks")
    kwargs = info["constructor_kwargs"]
    net = recorded_network(weights, "EDM2Precond", {**kwargs, "logvar_channels": None}, "G/").requires_grad_(False)
    student, _ = convert(write_genuine("n.pkl", net, {**kwargs, **switches}, renamed=SIDA_EDM2))
    assert student.logvar_linear is None
    arrays, _ = load_tensors("losses_edm2/generate_multistep")
    for steps in (1, 2, 4):
        first, *later = (arrays[f"steps{steps}/draw{i:02d}"] for i in range(steps))
        images = multi_step(
            student, first, arrays["in/labels"], GeneratorSteps(steps), lambda x, later=later: later.pop(0)
        )
        agree(arrays, **{f"steps{steps}/images": images})


def average(net):
    """The average of torch over a network whose U-Net is compiled."""
    prefixed = {f"module.{name.replace('model.', 'model._orig_mod.', 1)}": t for name, t in net.state_dict().items()}
    return {"n_averaged": torch.tensor(4), **prefixed}


def lightning(net):
    """A checkpoint of Lightning with a loss and an average, whose weights FSDP has wrapped."""
    weights = {f"net._fsdp_wrapped_module.{name}": t for name, t in net.state_dict().items()}
    old = {f"ema.{name}": torch.zeros_like(t) for name, t in tiny(num_blocks=2).state_dict().items()}
    return {"epoch": 3, "state_dict": {**weights, **old, "loss.lpips.weight": torch.zeros(2)}, "optimizer_states": [{}]}


@pytest.mark.parametrize(
    ("wrapped", "key", "said"),
    [
        (average, "ema", "'module.model._orig_mod.|'module.' taken off; 1 other .*n_averaged"),
        (lightning, "state_dict", "'net._fsdp_wrapped_module.' taken off; .* other"),
        (lambda net: {"a": {"b": net.state_dict()}, "c": {"b": {"x": torch.zeros(1)}}}, "a.b", None),
    ],
    ids=["average", "Lightning", "nested"],
)
def test_weights_under_wrappers_are_the_network_and_the_prefix_is_said(wrapped, key, said, capsys):
    net = tiny()
    torch.save(wrapped(net), "w.pt")
    assert equal(net, convert(Path("w.pt"), network=net.init_config, key=key)[0])
    told = capsys.readouterr().err
    assert re.search(said, told) if said else not told


# Files that must be refused


@pytest.mark.parametrize(
    ("wrapped", "key", "fault"),
    [
        (lambda state: {"epoch": 1, "state_dict": state, "ema": {"shadow": state}}, "ema",
         r"state_dict \(.*ema.shadow.*--key"),
        (lambda state: {f"{who}_model.{n}": t for who in ("online", "ema") for n, t in state.items()}, "ema",
         "2 networks, .*online_model, ema_model; .*--key"),
        (lambda state: {f"model.{name}": t for name, t in state.items()} | {"model.more.weight": torch.zeros(1)}, "ema",
         "model.more.weight.*--network"),
        (lambda state: {f"unet.{name}x": t for name, t in state.items()}, "ema", "begin with unet.*--network"),
        (lambda state: {**state, next(iter(state)): torch.zeros(7)}, "ema", r"has \[7\].*--network"),
    ],
    ids=["nested", "two networks", "more tensors", "other names", "other shapes"],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_architecture_are_named(wrapped, key, fault):
    net = tiny()
    torch.save(wrapped(dict(net.state_dict())), "w.pt")
    not_imported(Path("w.pt"), fault, network=net.init_config, key=key)


def test_one_of_two_networks_is_named_by_its_prefix_and_one_of_several_files_is_refused():
    net = tiny()
    both = {f"{who}.{n}": t + (who == "old") for who in ("old", "new") for n, t in net.state_dict().items()}
    torch.save(both, "w.pt")
    assert equal(net, convert(Path("w.pt"), network=net.init_config, key="new")[0])
    torch.save({"model.map_layer0.weight": torch.zeros(1)}, "model-00001-of-00002.bin")
    not_imported(Path("model-00001-of-00002.bin"), "part 1 of 2", network=net.init_config)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.ckpt", "net"])
def test_a_network_is_one_whatever_its_file_is_called(name):
    net = tiny()
    assert names_network(str(write_genuine(name, net)))
    assert equal(net, load_network(network_file(name))[0])
    torch.save(net.state_dict(), name)
    assert names_network(name)
    refused("weights alone.*--network", network_file, name)


@pytest.mark.parametrize("entry", ["state_dict", "ema", "ema.shadow"])
def test_each_key_in_the_refusal_of_several_networks_reads_its_network(entry):
    net = tiny()
    state = net.state_dict()
    weights = {f"{who}.{n}": t + place for place, who in enumerate(("unet", "copy.module")) for n, t in state.items()}
    outer, _, inner = entry.partition(".")
    torch.save({"epoch": 3, outer: {inner: weights} if inner else weights}, "w.ckpt")
    for key in (entry, f"{entry}.none"):
        with refusing(rf"2 networks, .*{entry}\.unet, {entry}\.copy\.module; .*--key") as caught:
            import_network(Path("w.ckpt"), "o.safetensors", network=net.init_config, key=key)
    keys = re.findall(rf"{re.escape(entry)}\.[\w.]+\w", str(caught.value))
    found = [convert(Path("w.ckpt"), network=net.init_config, key=key)[0] for key in keys]
    bias = net.model.map_layer0.bias
    for place, one in enumerate(found):
        assert_near(one.model.map_layer0.bias, bias + place)


def test_a_key_that_goes_beyond_an_entry_with_one_network_is_refused():
    net = tiny()
    torch.save({"ema": net.state_dict()}, "w.pt")
    not_imported(Path("w.pt"), r"holds 1 network, by the prefixes ema; name one", network=net.init_config, key="ema.x")


def test_weights_of_another_program_in_safetensors_are_described_by_their_architecture():
    net = tiny()
    save_file({f"module.{name}": tensor for name, tensor in net.state_dict().items()}, "w.safetensors")
    facts = describe_file("w.safetensors", network=net.init_config)
    assert (facts["format"], facts["network"]) == ("state dict", net.init_config)
    refused("--network: no architecture", describe_file, "w.safetensors", network={"unet": net.init_config})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"key": "emma"}, "has no entry 'emma'.*did you mean 'ema'.*sida convert .*--key"),
        ({"key": "dataset_kwargs"}, "holds plain values"),
        ({"key": "augment_pipe"}, "holds a NoneType"),
        ({"network_class": "GDPrecond"}, "did you mean 'GDDPrecond'"),
    ],
)
def test_a_wrong_key_or_class_is_named(options, reason):
    """Wrong tensors: tests/files/test_pickles.py and tests/networks/test_file.py."""
    not_imported(write_genuine("n.pkl", tiny()), reason, **options)


def test_latents_of_another_program_are_no_network(tmp_path):
    save_file({"latents": torch.zeros(2, 4, 2, 2)}, tmp_path / "rank0.safetensors")
    refused("rank0.* is latents.*sida data encode", import_network, tmp_path / "rank0.safetensors", tmp_path / "o")


def test_a_checkpoint_in_parts_is_joined_by_the_command_that_is_told(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__0_0.distcp").touch()
    refused("in parts; join them first: .*dcp_to_torch .*parts net.pt", find_source, str(tmp_path / "parts"))


def test_an_unknown_class_and_an_unknown_architecture_are_named():
    path = write_genuine("n.pkl", tiny(), renamed={"EDMPrecond": "iDDPMPrecond"})
    not_imported(path, "'iDDPMPrecond' is not read")
    torch.save(tiny().state_dict(), "w.pt")
    not_imported(Path("w.pt"), "no architecture", network={"kwargs": {}})
    torch.save(torch.nn.Linear(3, 3), "net.pt")
    not_imported(Path("net.pt"), r"torch\.nn\.modules\.linear\.Linear.*state_dict")


# The commands


def test_convert_and_info():
    net = tiny()
    path, count = write_genuine("n.pkl", net), sum(p.numel() for p in net.parameters())
    said = command("convert", path, "out.safetensors")
    assert said == "out.safetensors: EDMPrecond SongUNet\n"
    shown = command("info", "out.safetensors")
    for fact in (f"{count:,}", "EDMPrecond", "source_sha256"):
        assert fact in shown
    facts = json.loads(command("info", path, "--json"))
    assert facts["parameters"] == count
    assert facts["network"] == net.init_config
    assert facts["entries"] == ["augment_pipe", "dataset_kwargs", "ema"]


def test_convert_never_replaces_its_source(tmp_path):
    before = write_genuine("n.pkl", tiny()).read_bytes()
    refused(r"n\.pkl: .*another output file", command, "convert", "n.pkl", tmp_path / "x/../n.pkl")
    assert Path("n.pkl").read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "name", "cls"), [("gdd-network", "n.pkl", "GDDPrecond"), ("state-dict:tiny", "w.bin", "EDMPrecond")]
)
def test_a_registered_id_becomes_the_network_that_its_kind_names(tmp_path, monkeypatch, kind, name, cls):
    row = {"id": "mine", "kind": kind, "url": f"https://x/{name}", "target": f"t/{name}"}
    use_registry(monkeypatch, tmp_path, row)
    net, file, architecture = tiny(), Path("cache/t", name), Path("config/networks/tiny.yaml")
    for path in (file, architecture):
        path.parent.mkdir(parents=True)
    architecture.write_text(json.dumps(net.init_config))
    write_genuine(file, net) if name == "n.pkl" else torch.save(net.state_dict(), file)
    loaded, metadata = load_network(network_file("mine"))
    assert (metadata["network"]["class"], metadata["origin"]["url"]) == (cls, row["url"])
    assert equal(net, loaded)
    # The workflow imports by this command.
    command("convert", "mine", "out.safetensors")
    assert load_network("out.safetensors")[1]["network"] == metadata["network"]
    if name == "w.bin":
        architecture.unlink()
        refused(r"asset .mine.: kind: no .*tiny", network_file, "mine")
