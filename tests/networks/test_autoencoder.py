"""Autoencoders in folders from elsewhere: the library's images, or one line before anything is decoded."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from sida.config.families import EDM2_LATENTS, SD_LATENTS
from sida.data import LatentDecoder, LatentEncoder, LatentScaling
from sida.networks.autoencoder import load_vae
from tests.near import assert_levels, assert_near, is_copy
from tests.refused import refused, refusing

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
NAME = "decoder.mid_block.attentions.0.to_q.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    net = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4).eval()
    folder = tmp_path_factory.mktemp("made")
    net.save_pretrained(folder)
    return net, json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)


def written(folder, config, state, metadata=None):
    """A folder with an autoencoder's two files."""
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(state, folder / WEIGHTS, metadata)
    return str(folder)


def test_images_and_moments_are_the_librarys(made, tmp_path):
    net, config, state = made
    vae = load_vae(written(tmp_path, config, state))
    latents = torch.randn(9, 4, 4, 4)
    images = LatentDecoder(vae)(latents)
    with torch.no_grad():
        raw = net.decode(LatentScaling().to_raw(latents)).sample
        moments = net.encode(images.float() / 255).latent_dist
    assert_levels(images, (raw.clamp(0, 1) * 255).to(torch.uint8))
    assert_near(LatentEncoder(vae)(images), torch.cat([moments.mean, moments.std], 1))
    assert not vae.training
    assert not any(p.requires_grad for p in vae.parameters())
    # As older releases wrote it: other names of attention layers, no later options, half precision.
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): tensor.half() for key, tensor in state.items()}
    later = ("force_upcast", "shift_factor", "latents_mean", "latents_std", "use_quant_conv", "use_post_quant_conv")
    config = {key: value for key, value in config.items() if key not in (*later, "mid_block_add_attention")}
    before = torch.get_rng_state()
    half = load_vae(written(tmp_path, config, state))
    assert is_copy(torch.get_rng_state(), before)
    assert is_copy(half.state_dict()[NAME], net.state_dict()[NAME].half().float())


@pytest.mark.parametrize(
    ("changes", "place", "told"),
    [
        ({"layers_per_block": 20_000}, "layers_per_block", "64"),
        ({"layers_per_block": -1}, "layers_per_block", "1"),
        ({"block_out_channels": [10**7, 8]}, "block_out_channels", "65536"),
        ({"block_out_channels": [8] * 3}, "block_out_channels", "one length"),
        (
            {
                "block_out_channels": [8] * 40,
                "down_block_types": ["DownEncoderBlock2D"] * 40,
                "up_block_types": ["UpDecoderBlock2D"] * 40,
            },
            "block_out_channels",
            "1 to 6",
        ),
        ({"block_out_channels": "8, 8"}, "block_out_channels", "list"),
        ({"down_block_types": ["DownEncoderBlock2D", "os.system"]}, "down_block_types", "AttnDownEncoderBlock2D"),
        ({"latent_channels": 16}, "latent_channels", "4"),
        ({"out_channels": 6}, "out_channels", "3"),
        ({"scaling_factor": 0.13025}, CONFIG, "scaling_factor.*0.18215"),
        ({"latents_mean": [0.1] * 4}, CONFIG, "latents_mean"),
        ({"norm_num_groups": 3}, "", "cannot be built"),
        ({"act_fn": "__import__"}, "act_fn", "silu"),
        ({"_class_name": "AsymmetricAutoencoderKL"}, CONFIG, "AutoencoderKL"),
        ({"quantization_config": {}}, CONFIG, "quantization_config"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_option_beyond_the_bounds_is_named(made, tmp_path, changes, place, told):
    _, config, state = made
    with refusing(told, place):
        load_vae(written(tmp_path, config | changes, state))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop(NAME), "has none"),
        (lambda state: state.update({"x": torch.zeros(1)}), "'x'.*needs none"),
        (lambda state: state.update({NAME.replace("to_q", "query"): torch.zeros(8, 8)}), "to_q.*twice"),
        (lambda state: state.update({NAME: torch.zeros(8, 9)}), r"\[8, 9\]"),
        (lambda state: state[NAME].fill_(torch.nan), f"{NAME}.*NaN"),
        (lambda state: state[NAME].fill_(-torch.inf), f"{NAME}.*infinity"),
        (lambda state: state.update({NAME: torch.zeros(8, 8, dtype=torch.int8)}), f"{NAME}.*int8"),
        (lambda state: state.update({NAME: torch.zeros(8, 8, dtype=torch.bool)}), f"{NAME}.*bool"),
    ],
    ids=["missing", "more", "two names", "shape", "NaN", "infinity", "int8", "bool"],
)
def test_a_tensor_that_does_not_fit_is_named(made, tmp_path, change, told):
    _, config, state = made
    state = {name: tensor.clone() for name, tensor in state.items()}
    change(state)
    refused(told, load_vae, written(tmp_path, config, state))


def test_a_missing_or_damaged_file_is_named(made, tmp_path):
    _, config, state = made
    written(tmp_path, config, state)
    content = (tmp_path / WEIGHTS).read_bytes()
    for name, text, told in (
        (WEIGHTS, content[:-9], WEIGHTS),
        (CONFIG, b"[]", "JSON mapping"),
        (CONFIG, b"{", CONFIG),
        (WEIGHTS, None, "no such file.*save_pretrained"),
        (CONFIG, None, "no such file.*save_pretrained"),
    ):
        (tmp_path / name).unlink()
        if text is not None:
            (tmp_path / name).write_bytes(text)
        with refusing(told):
            load_vae(str(tmp_path))
        written(tmp_path, config, state)


def test_nan_of_the_autoencoder_is_refused_and_that_of_a_generator_is_black():
    latents = torch.zeros(3, 4, 2, 2)
    latents[1] = torch.nan
    through = SimpleNamespace(decode=lambda x: SimpleNamespace(sample=x[:, :3] * 0 + 1))
    broken = SimpleNamespace(decode=lambda x: SimpleNamespace(sample=x[:, :3].sqrt() + torch.nan))
    for kind, rounded in ((EDM2_LATENTS, False), (SD_LATENTS, False), (SD_LATENTS, True)):
        images = LatentDecoder(through, kind, rounded=rounded)(latents)
        assert images.flatten(1).unique(dim=1).squeeze(1).tolist() == [255, 0, 255]
        refused("NaN", LatentDecoder(broken, kind, rounded=rounded), latents)
