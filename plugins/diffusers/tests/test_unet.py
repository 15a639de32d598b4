"""Pipelines of diffusers: the library's own denoised images, logits of the middle block, and one line for the rest."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sida
from plugins.diffusers.tests.pipelines import TINY, diffusers, edited, refused_with, write_pipeline
from sida.eval.measuring.source import names_network
from sida.networks import build_network, load_network
from sida.networks.file import build_on_meta
from sida.networks.folders import open_folder
from sida.networks.official import find_source, import_network
from sida.sampling.guidance import Unlabelled
from tests.near import assert_near, is_copy, relative_error, same_bits
from tests.refused import command, refusal, refused, refusing

CLASSES = {"num_class_embeds": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "ddpm"
    write_pipeline(path, **CLASSES)
    return path


def converted(folder, **options):
    path, asset = find_source(str(folder))
    import_network(path, folder / "out.safetensors", asset, **options)
    return load_network(folder / "out.safetensors")[0]


SKIP = {"down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"), "layers_per_block": 2}
SKIP |= {"up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"), "block_out_channels": (32, 64)}
SKIP |= {"in_channels": 3, "out_channels": 3}
RESNET = {"down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D"), "resnet_time_scale_shift": "scale_shift"}
RESNET |= {"up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D"), "act_fn": "gelu"}
OLD = {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "attention_head_dim": None, "norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("scheduler", "unet"),
    [
        ({}, {}),
        ({"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}, CLASSES),
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, SKIP),
        pytest.param({"beta_schedule": "sigmoid", "num_train_timesteps": 50}, RESNET, marks=pytest.mark.slow),
        pytest.param(
            {"trained_betas": [0.01 * k for k in range(1, 60)]},
            {**CLASSES, "class_embed_type": "timestep"},
            marks=pytest.mark.slow,
        ),
        ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, OLD),
    ],
    ids=["noise", "velocity", "image", "few steps", "betas", "zero SNR"],
)
def test_the_denoised_image_is_that_of_the_library(tmp_path, scheduler, unet):
    pipeline = write_pipeline(tmp_path / "ddpm", scheduler, **unet)
    net = converted(tmp_path / "ddpm")
    plan = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    steps = len(plan.betas)
    plan.timesteps = torch.arange(steps).flip(0)
    for step in (0, 1, steps // 2, steps - 2):
        x, noise = torch.rand(2, net.img_channels, 8, 8) * 2 - 1, torch.randn(2, net.img_channels, 8, 8)
        classes = torch.tensor([2, 0])
        times = torch.full((2,), step)
        noisy = plan.add_noise(x, noise, times)
        labels = torch.eye(3)[classes] if net.label_dim else None
        with torch.no_grad():
            output = pipeline.unet(noisy, times, class_labels=classes if net.label_dim else None).sample
            expected = plan.step(output, step, noisy).pred_original_sample
            share = plan.alphas_cumprod[step]
            found = net(noisy / share.sqrt(), net.steps.log_sigmas[step].exp(), labels)
        assert_near(found, expected, 1e-4)
    assert np.isfinite(net.sigma_max)


def test_a_level_between_two_steps_is_a_fraction_by_its_logarithm():
    net = build_network({"class": "DiffusersPrecond", "kwargs": small_kwargs()})
    levels = net.steps.log_sigmas
    asked = torch.tensor([levels[0] - 1, levels[7], (levels[7] + 3 * levels[8]) / 4, levels[-1] + 1]).exp()
    assert net.steps(asked).numpy() == pytest.approx([0, 7, 7.75, 999], abs=2e-3)


def small_kwargs(**changes):
    named = {"img_resolution": "sample_size", "img_channels": "in_channels"}
    kwargs = {mine: TINY[its] for mine, its in named.items()}
    kwargs |= {name: value for name, value in TINY.items() if name not in (*named.values(), "out_channels")}
    return {**kwargs, **changes}


@pytest.mark.parametrize("unet", [CLASSES, {**SKIP, **CLASSES}], ids=["plain", "skip"])
def test_logits_are_of_the_middle_block_and_leading_samples_are_exact(tmp_path, unet):
    pipeline = write_pipeline(tmp_path / "ddpm", **unet)
    net = converted(tmp_path / "ddpm")
    x, sigma, labels = torch.randn(4, net.img_channels, 8, 8), torch.rand(4) + 0.5, torch.eye(3)[[0, 1, 2, 0]]
    middle, decoded = [], []
    pipeline.unet.mid_block.register_forward_hook(lambda module, args, output: middle.append(output))
    net.unet.up_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: decoded.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        scale = (1 + sigma.square()).rsqrt().view(-1, 1, 1, 1)
        pipeline.unet(x * scale, net.steps(sigma), class_labels=labels.argmax(1))
        logits = net(x, sigma, labels, return_flag="encoder")
        maps = net(x, sigma, labels, return_flag="features")
        assert not decoded
        image, both = net(x, sigma, labels, return_flag="encoder_decoder", decode=3)
        whole = net(x, sigma, labels)
        alone = net(x[:3], sigma[:3], labels[:3])
    assert_near(logits, middle[0].mean(1, keepdim=True))
    assert_near(both, logits)
    assert [tuple(one.shape[2:]) for one in maps] == [(8, 8), (4, 4)]
    assert_near(maps[-1].mean(1, keepdim=True), logits)
    assert len(image) == 3
    assert_near(image, alone)
    assert_near(image, whole[:3])
    assert not net.unet.mid_block._forward_hooks


def test_half_precision_computes_near():
    net = build_network({"class": "DiffusersPrecond", "kwargs": small_kwargs()})
    x, steps = torch.randn(2, 1, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        (exact, logits), (near, others) = (
            net.body(one, steps, None, None, "encoder_decoder", 1) for one in (x, x.bfloat16())
        )
    assert near.dtype == torch.bfloat16
    assert others.dtype == torch.float32
    assert_near(near.float(), exact, 0.2)
    assert_near(others, logits, 0.2)


def test_checkpointing_changes_no_gradient():
    nets = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        net = build_network({"class": "DiffusersPrecond", "kwargs": small_kwargs(dropout=0.1)})
        if checkpointed:
            sida.networks.checkpoint_blocks(net, "here")
        torch.manual_seed(1)
        net(torch.ones(2, 1, 8, 8), 1.0).square().sum().backward()
        nets.append(net)
    assert same_bits(*([parameter.grad for parameter in net.parameters()] for net in nets))


def test_a_null_label_is_the_last_row_and_no_class_without_one_adds_nothing(folder):
    with torch.no_grad():
        for null in (False, True):
            net = converted(folder, null_label=null)
            assert net.label_dim == 3 - null
            rows = torch.eye(net.label_dim)
            table = net.unet.class_embedding
            assert_near(table(rows), table.weight[: net.label_dim])
            nothing = table(torch.zeros(1, net.label_dim))
            assert_near(nothing, table.weight[2:] if null else torch.zeros_like(nothing))


def test_a_null_label_guides_and_networks_without_one_are_told_how_to_get_it(folder):
    net, plain = converted(folder, null_label=True), converted(folder)
    x, guide = torch.randn(2, 1, 8, 8), Unlabelled(net)
    with torch.no_grad():
        classless = net(x, 1.0, torch.zeros(2, 2))
        assert_near(guide(x, 1.0, torch.eye(2)), classless)
        assert relative_error(net(x, 1.0, torch.eye(2)), classless) > 1e-3
    by_number = build_network({"class": "DiffusersPrecond", "kwargs": small_kwargs(**BY_NUMBER)})
    for other in (plain, by_number):
        error = refused("null_label.*--null-label", Unlabelled, other, "gnet")
        assert error.where == "gnet"


BY_NUMBER = {"label_dim": 3, "class_embed_type": "timestep"}


def test_no_class_is_not_the_first_class_where_numbers_are_embedded():
    torch.manual_seed(0)
    net = build_network({"class": "DiffusersPrecond", "kwargs": small_kwargs(**BY_NUMBER)}).eval()
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x, rows = torch.randn(3, 1, 8, 8), torch.eye(3)
    rows[1] = 0
    with torch.no_grad():
        classless, first, mixed = net(x, 1.0), net(x, 1.0, torch.eye(3)[:1]), net(x, 1.0, rows)
        net.unet.class_embedding.linear_2.weight.zero_()
        net.unet.class_embedding.linear_2.bias.zero_()
        assert_near(net(x, 1.0, torch.eye(3)), classless)
    assert relative_error(classless, first.expand(3, -1, -1, -1)) > 1e-4
    assert_near(mixed[0], first[0])
    assert_near(mixed[1], classless[1])
    assert not net.unet.class_embedding._forward_hooks


LONGER = ("DownBlock2D", "DownBlock2D", "DownBlock2D")


@pytest.mark.parametrize(
    ("options", "key", "told"),
    [
        ({"block_out_channels": []}, "block_out_channels", "0 entries"),
        ({"block_out_channels": [], "down_block_types": [], "up_block_types": []}, "block_out_channels", "0 entries"),
        ({"down_block_types": LONGER}, "block_out_channels", "3, 2 and 2 entries"),
        ({"up_block_types": ("UpBlock2D",)}, "block_out_channels", "2, 1 and 2 entries"),
        ({"norm_num_groups": 5}, "block_out_channels", "divisible"),
        ({"trained_betas": (0.1, 1.0, 0.1, 0.1)}, "trained_betas", "step 1.*only the last"),
        ({"trained_betas": (0.1, 0.1, 1.0, 1.0)}, "trained_betas", "step 2.*only the last"),
        ({"beta_start": 1.0, "beta_end": 1.0}, "beta_start", "step 0.*only the last"),
        ({"trained_betas": (0.1, 1.0)}, "num_train_timesteps", "at least two"),
    ],
)
def test_options_that_contradict_each_other_are_one_line_at_every_door(tmp_path, options, key, told):
    config = {"class": "DiffusersPrecond", "kwargs": small_kwargs(**options)}
    assert refused(told, build_network, config, "here").where == f"here.kwargs.{key}"
    refused(f"{key}.*{told}", build_on_meta, config, "file")


def test_a_last_step_without_signal_is_left_out():
    net = build_network({"class": "DiffusersPrecond", "kwargs": small_kwargs(trained_betas=(0.1, 0.2, 1.0))})
    assert net.steps.alphas_cumprod.tolist() == pytest.approx([0.9, 0.72])


def test_attention_layers_of_old_files_have_new_names(folder, tmp_path):
    new, old = converted(folder), shutil.copytree(folder, tmp_path / "old")
    weights = old / "unet/diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(weights)
    renamed = {}
    for name, tensor in state.items():
        before = next((part for part in names if f".{part}." in name), None)
        renamed[name.replace(f".{before}.", f".{names[before]}.") if before else name] = tensor
    assert renamed.keys() != state.keys()
    save_file(renamed, weights)
    assert is_copy(converted(old).state_dict(), new.state_dict())


def retyped(folder, path, dtype):
    other = shutil.copytree(folder, path)
    save_file({name: tensor.to(dtype) for name, tensor in load_file(other / WEIGHTS).items()}, other / WEIGHTS)
    return other


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read_as_float32(folder, tmp_path, dtype):
    exact, net = converted(folder).state_dict(), converted(retyped(folder, tmp_path / "other", dtype)).state_dict()
    assert all(is_copy(net[name], tensor.to(dtype).float()) for name, tensor in exact.items() if "unet." in name)


def test_weights_of_torch_save_are_read_without_executing_them(folder, tmp_path):
    """As in repositories from before safetensors."""
    other = shutil.copytree(folder, tmp_path / "other")
    torch.save(load_file(other / WEIGHTS), (other / WEIGHTS).with_suffix(".bin"))
    (other / WEIGHTS).unlink()
    exact, net = converted(folder).state_dict(), converted(other).state_dict()
    assert is_copy(net, exact)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "float8_e4m3fn"])
def test_weights_that_are_not_of_floating_point_are_one_line(folder, tmp_path, dtype):
    other = retyped(folder, tmp_path / "other", getattr(torch, dtype))
    with refusing(WEIGHTS, "tensor 'class_embedding.weight'", rf"type {dtype}; |type F8_E4M3; "):
        command("convert", other, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_weights_that_are_not_finite_are_told_of_their_file(folder, tmp_path, value):
    other = retyped(folder, tmp_path / "other", torch.float64)
    state = load_file(other / WEIGHTS)
    state["conv_in.bias"][0] = value
    save_file(state, other / WEIGHTS)
    with refusing(WEIGHTS, "tensor 'conv_in.bias'", "another snapshot"):
        command("convert", other, tmp_path / "out.safetensors")


@pytest.mark.parametrize(("key", "added"), [("ema", 1), ("unet_ema", 1), ("unet", 0)])
def test_the_average_in_a_checkpoint_is_read_unless_the_last_weights_are_named(folder, tmp_path, key, added, capsys):
    """As accelerate writes a state of `train_unconditional.py`, with the scheduler beside it."""
    checkpoint = shutil.copytree(folder, tmp_path / "checkpoint-500")
    (checkpoint / "model_index.json").unlink()
    shutil.copytree(checkpoint / "unet", checkpoint / "unet_ema")
    config = json.loads((checkpoint / "unet_ema/config.json").read_text())
    (checkpoint / "unet_ema/config.json").write_text(json.dumps(config | {"decay": 0.9999, "optimization_step": 500}))
    state = load_file(checkpoint / WEIGHTS)
    save_file({name: t + 1 for name, t in state.items()}, checkpoint / WEIGHTS.replace("unet/", "unet_ema/"))
    import_network(find_source(str(checkpoint), key)[0], tmp_path / "out.safetensors", key=key)
    assert ("unet_ema is read" in capsys.readouterr().err) == bool(added)
    net = load_network(tmp_path / "out.safetensors")[0].state_dict()
    assert_near(net["unet.conv_in.bias"], state["conv_in.bias"] + added)
    refused(
        "unet_ema, .* not 'other'.*--key", command, "convert", checkpoint, tmp_path / "o.safetensors", "--key", "other"
    )


def test_a_folder_without_folders_is_read_alike(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "flat").mkdir()
    for path in (*folder.glob("unet/*"), *folder.glob("scheduler/*")):
        shutil.copy(path, tmp_path / "flat")
    one, other = (sida.load(source, "heun:2").sample(3) for source in (folder, tmp_path / "flat"))
    assert same_bits(one, other)


def test_a_network_that_is_no_denoiser_is_said_to_be_none(folder, tmp_path, capsys):
    import_network(find_source(str(folder))[0], tmp_path / "out.safetensors")
    assert "prediction_type" in capsys.readouterr().err


def renamed(name, target):
    return lambda folder: (folder / name).rename(folder / target) if target else (folder / name).unlink()


UNET, SCHEDULER, WEIGHTS = (
    *("unet/config.json", "scheduler/scheduler_config.json"),
    "unet/diffusion_pytorch_model.safetensors",
)


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (edited(SCHEDULER, _class_name="ScoreSdeVeScheduler"), SCHEDULER, "ScoreSdeVeScheduler.*DDPMScheduler"),
        (edited(SCHEDULER, beta_schedule="secret"), "beta_schedule", "linear"),
        (edited(SCHEDULER, prediction_type="flow_prediction"), "prediction_type", "epsilon"),
        (edited(SCHEDULER, use_flow_sigmas=True), SCHEDULER, "use_flow_sigmas"),
        (edited(SCHEDULER, num_train_timesteps=10**9), "num_train_timesteps", "between"),
        (edited(SCHEDULER, trained_betas=[0.1] * 10**5), "trained_betas", "most"),
        (edited(UNET, _class_name="UNet2DConditionModel"), UNET, "UNet2DConditionModel.*UNet2DModel"),
        (edited(UNET, time_embedding_type="fourier"), UNET, "fourier.*positional"),
        (edited(UNET, center_input_sample=True), UNET, "center_input_sample"),
        (edited(UNET, class_embed_type="identity"), UNET, "class_embed_type"),
        (edited(UNET, sample_size=[8, 16]), UNET, "sample_size"),
        (edited(UNET, out_channels=2), UNET, "out_channels.*variance"),
        (edited(UNET, down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"]), "down_block_types", "DownBlock2D"),
        (edited(UNET, layers_per_block=2), "", "down_blocks.*file has none"),
        (edited(UNET, secret=1), UNET, "secret"),
        (edited("model_index.json", vqvae=["diffusers", "VQModel"]), "", "vqvae"),
        (renamed(SCHEDULER, ""), "", "scheduler_config.json.*save_pretrained"),
        (renamed(WEIGHTS, "unet/diffusion_pytorch_model.fp16.safetensors"), "", "subfolder='unet', variant='fp16'"),
        (renamed(WEIGHTS, "unet/diffusion_pytorch_model.ema.bin"), "", "subfolder='unet', variant='ema'"),
        (renamed(WEIGHTS, ""), "", "no unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_what_is_not_read_is_refused_by_one_line_and_nothing_is_written(folder, tmp_path, change, place, told):
    refused_with(folder, tmp_path, change, told, place)


def test_options_that_do_not_go_with_a_pipeline_are_refused(folder, tmp_path):
    other = write_pipeline(tmp_path / "classless") and tmp_path / "classless"
    assert "classless: has no classes; leave out" in refusal(
        command, "convert", other, tmp_path / "out", "--null-label"
    )
    assert "--network" in refusal(command, "convert", folder, tmp_path / "out", "--network-class", "EDMPrecond")


@pytest.mark.parametrize(("name", "is_pipeline"), [("config.json", False), ("transformer/config.json", True)])
def test_settings_alone_are_a_pipeline_only_in_the_folder_of_a_network(tmp_path, name, is_pipeline):
    (tmp_path / "transformer").mkdir()
    (tmp_path / name).write_text('{"_class_name": "UNet2DModel"}')
    if not is_pipeline:
        assert open_folder(str(tmp_path)) is None
        return
    refused("scheduler_config.json", open_folder, str(tmp_path))


def test_a_folder_of_a_unet_alone_is_not_taken_for_a_file(folder, tmp_path):
    assert names_network(str(folder))
    assert "the folder above" in refusal(command, "convert", folder / "unet", tmp_path / "out.safetensors")


def test_the_package_is_named_where_it_is_not_installed(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    assert "make setup" in refusal(command, "convert", folder, tmp_path / "out.safetensors")
