"""Folders of diffusers with transformers: DiT computes as the library's class does, SiT is read by its settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sida
from plugins.diffusers.tests.pipelines import diffusers, edited, refused_with
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.sampling import one_step
from tests.near import assert_near, is_copy, same_bits
from tests.networks.made import random_network
from tests.refused import command, refusal

CONFIG, WEIGHTS = "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
SIZES = {"num_attention_heads": 3, "attention_head_dim": 8, "in_channels": 4, "num_layers": 3, "sample_size": 6}


def random_dit(**options):
    """The library's transformer with random weights, one embedding in all blocks, and DiT's own frequencies."""
    torch.manual_seed(1)
    options = {**SIZES, "out_channels": 8, "num_embeds_ada_norm": 5, "norm_eps": 1e-6, **options}
    net = diffusers.DiTTransformer2DModel(**options).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    first = net.transformer_blocks[0].norm1.emb
    for block in net.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return net


def write_dit(folder: Path, vae: bool = False, **options):
    """Writes the parts of a `DiTPipeline` as its `save_pretrained` does, and returns the transformer."""
    net = random_dit(**options)
    net.save_pretrained(folder / "transformer")
    diffusers.DDIMScheduler(num_train_timesteps=200, clip_sample=False).save_pretrained(folder / "scheduler")
    parts = {"transformer": ["diffusers", "Transformer2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    if vae:
        diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(folder / "vae")
        parts["vae"] = ["diffusers", "AutoencoderKL"]
    index = {"_class_name": "DiTPipeline", "id2label": {"0": "tench"}, **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    write_dit(path := tmp_path_factory.mktemp("dit"), vae=True)
    return path


def converted(source, target):
    command("convert", source, target)
    return load_network(target)[0]


@pytest.mark.parametrize(("options", "learned"), [({}, True), ({"out_channels": None, "patch_size": 3}, False)])
def test_dit_computes_as_the_class_of_the_library(tmp_path, options, learned):
    """At each step the predicted noise, and the share of the variance if it is learnt."""
    theirs = write_dit(tmp_path / "dit", **options)
    ours = converted(tmp_path / "dit", tmp_path / "net.safetensors")
    x, classes = torch.randn(4, 4, 6, 6), torch.tensor([0, 4, 2, 5])
    labels = torch.eye(6)[classes][:, :5]
    for step in (0, 17, 199):
        with torch.no_grad():
            expected = theirs(x, torch.full((4,), step), classes).sample
            got = ours.at_step(x, step, labels)
        assert got.shape[1] == (8 if learned else 4)
        assert_near(got, expected)
    assert len(ours.steps.log_sigmas) == 200


def test_positions_of_a_file_are_taken(folder, tmp_path):
    """As versions of the library wrote them that stored the fixed table."""
    other, positions = shutil.copytree(folder, tmp_path / "other"), torch.randn(1, 9, 24)
    save_file({**load_file(other / WEIGHTS), "pos_embed.pos_embed": positions}, other / WEIGHTS)
    assert is_copy(converted(other, tmp_path / "net.safetensors").pos_embed, positions)


def test_images_come_from_the_folder_with_its_decoder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    generator = sida.load(str(folder), "ddpm:4", vae=str(folder / "vae"))
    assert generator.sample(2).shape == (2, 3, 6, 6)
    assert "DiT's own code" in capsys.readouterr().err


def write_sit(folder, state=None, **settings):
    """Writes the folder of a SiT as converted weights on the Hub have it, and returns the network."""
    kwargs = {"img_resolution": 8, "img_channels": 4, "label_dim": 3, "hidden_size": 24, "depth": 2, "num_heads": 3}
    net = build_network({"class": "SiTPrecond", "kwargs": {**kwargs, "learn_sigma": True}}).eval()
    for name in ("transformer", "scheduler"):
        (folder / name).mkdir(parents=True)
    save_file(net.state_dict() | (state or {}), folder / WEIGHTS)
    settings = {"_class_name": "SiTTransformer2DModel", "input_size": 8, "patch_size": 2, "in_channels": 4, **settings}
    settings |= {"hidden_size": 24, "depth": 2, "num_heads": 3, "num_classes": 3, "learn_sigma": True}
    (folder / CONFIG).write_text(json.dumps(settings))
    (folder / SCHEDULER).write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    return net


def test_sit_is_read_by_the_settings_beside_it(tmp_path):
    """Heads and classes are the file's."""
    net = write_sit(tmp_path / "sit")
    read = converted(tmp_path / "sit", tmp_path / "net.safetensors")
    assert read.init_config == net.init_config
    assert is_copy(read.state_dict(), net.state_dict())


TABLE = "y_embedder.embedding_table.weight"


def test_a_sit_without_dropout_of_classes_keeps_each_class_in_its_row(tmp_path):
    """Its table has no row for no class; the network's table has that row after those of the classes."""
    rows = torch.randn(3, 24)
    write_sit(tmp_path / "sit", {TABLE: rows}, class_dropout_prob=0)
    table = converted(tmp_path / "sit", tmp_path / "net.safetensors").state_dict()[TABLE]
    assert is_copy(table[:3], rows)
    assert not table[3].any()


@pytest.mark.parametrize("table", [torch.tensor(1.0), torch.zeros(24), torch.zeros(4, 24), torch.zeros(3, 23)])
def test_a_table_of_classes_of_another_shape_is_refused(tmp_path, table):
    write_sit(tmp_path / "sit", {TABLE: table}, class_dropout_prob=0)
    told = refusal(command, "convert", tmp_path / "sit", tmp_path / "net.safetensors")
    assert WEIGHTS in told
    assert TABLE in told
    assert not (tmp_path / "net.safetensors").exists()


def tensors(change):
    def edit(folder):
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return edit


EMBEDDING = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"
QUERY, POSITIONS = "transformer_blocks.1.attn1.to_q.weight", "pos_embed.pos_embed"


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (edited(CONFIG, norm_type="ada_norm_single"), CONFIG, "norm_type"),
        (edited(CONFIG, num_layers="3"), CONFIG, "num_layers"),
        (edited(CONFIG, secret=1), CONFIG, "secret"),
        (edited(CONFIG, out_channels=6), CONFIG, "out_channels: 6"),
        (edited(CONFIG, num_layers=4), WEIGHTS, "transformer_blocks.3"),
        (edited(CONFIG, num_layers=2), WEIGHTS, "transformer_blocks.2"),
        (edited(CONFIG, num_attention_heads=2), WEIGHTS, r"pos_embed.proj.weight.*\[24, .*\[16, "),
        (edited(CONFIG, sample_size=4096), CONFIG, "sample_size: 4096.*2048 patches"),
        (edited(CONFIG, _class_name=["DiTTransformer2DModel"]), CONFIG, "_class_name"),
        (edited(CONFIG, _class_name="SD3Transformer2DModel"), CONFIG, "SD3Transformer2DModel.*DiTTransformer2DModel"),
        (edited(SCHEDULER, prediction_type="v_prediction"), SCHEDULER, "v_prediction.*epsilon"),
        (edited(SCHEDULER, beta_schedule="scaled_linear"), SCHEDULER, "scaled_linear.*linear"),
        (edited(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"), SCHEDULER, "FlowMatch.*DDIMScheduler"),
        (edited("vae/config.json", scaling_factor=0.13025), "vae/config.json", "0.13025.*0.18215"),
        (edited("model_index.json", text_encoder=["transformers", "CLIPTextModel"]), "", "text_encoder"),
        (tensors(lambda state: state[EMBEDDING].add_(1)), WEIGHTS, f"{EMBEDDING} differs.*one embedding"),
        (tensors(lambda state: state.pop("proj_out_2.bias")), WEIGHTS, "tensor 'proj_out_2.bias'.*none"),
        (tensors(lambda state: state.update(more=torch.zeros(1))), WEIGHTS, "tensor 'more'"),
        (tensors(lambda state: state.update({EMBEDDING: torch.tensor(1.0)})), WEIGHTS, EMBEDDING),
        (tensors(lambda state: state.update({QUERY: torch.zeros(24, 23)})), WEIGHTS, QUERY),
        (tensors(lambda state: state.update({POSITIONS: torch.zeros(9, 24)})), "", "pos_embed"),
    ],
)
def test_what_is_not_read_is_refused_by_one_line_and_nothing_is_written(folder, tmp_path, change, place, told):
    refused_with(folder, tmp_path, change, told, place)


def test_a_null_label_is_there_already(folder, tmp_path):
    assert "leave out --null-label" in refusal(command, "convert", folder, tmp_path / "net", "--null-label")


STUDENT = {"img_resolution": 6, "img_channels": 4, "label_dim": 5, "hidden_size": 24, "num_heads": 3, "depth": 3}


def exported(folder, steps=1, **kwargs):
    """Exports a random student, and returns it."""
    net = random_network("DiTPrecond", {**STUDENT, "num_steps": 300, "beta_end": 0.03, **kwargs})
    sampler = {"kind": "one_step", "init_sigma": 3.0, "num_steps": steps}
    file = folder.with_suffix(".safetensors")
    save_network(net, file, {"method": "sid", "sampler": sampler})
    command("export", file, "--to", "hf", folder)
    return sida.load(file)


@pytest.mark.parametrize("kwargs", [{}, {"learn_sigma": False, "patch_size": 3, "logits": "tokens"}])
def test_a_student_goes_to_a_dit_folder_and_back_bit_by_bit(tmp_path, monkeypatch, kwargs):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    student, folder = exported(tmp_path / "hf", img_channels=3, **kwargs), tmp_path / "hf"
    state, back = student.net.state_dict(), converted(folder, tmp_path / "back.safetensors")
    assert {name: value.tolist() for name, value in back.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    options = {**student.net.init_config["kwargs"], "logits": "maps"}
    assert back.init_config == {"class": "DiTPrecond", "kwargs": options}
    assert same_bits(student.sample(3, seed=5), sida.load(str(folder)).sample(3, seed=5))


def test_the_card_draws_a_dit_student_in_diffusers(tmp_path):
    """By the code of the card."""
    student, folder = exported(tmp_path / "hf"), tmp_path / "hf"
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code, drawn := {"FOLDER": str(folder)})
    with torch.no_grad():
        expected = one_step(student.net, drawn["z"], torch.eye(5)[drawn["classes"]], 3.0)
    assert_near(drawn["images"], expected)
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    assert_near(levels.log().float(), student.net.steps.log_sigmas.float())


@pytest.mark.parametrize("kwargs", [{"mlp_ratio": 2.0}, {"between_steps": "nearest"}, {"label_dim": 0}, {"steps": 2}])
def test_a_student_that_the_library_does_not_hold_is_written_with_its_code(tmp_path, kwargs):
    exported(tmp_path / "hf", **kwargs)
    assert (tmp_path / "hf/generator/model.py").is_file()
    assert not (tmp_path / "hf/transformer").exists()
