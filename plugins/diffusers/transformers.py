"""Transformers in folders of diffusers: DiT's under the library's names, SiT's under its own.

The library's `DiTTransformer2DModel` has DiT's blocks under other names: queries, keys and values apart, and a copy of
the embeddings of time and class in each block. Weights whose copies are equal are those of DiT's own code, and become
a network of that code. The library computes slightly differently with them: its frequencies of times fall by
10,000^(1/127) instead of 10,000^(1/128), and the second normalisation of a block has an ε of 1e-5 instead of 1e-6.

Source: huggingface/diffusers:scripts/convert_dit_to_diffusers.py, src/diffusers/models/embeddings.py
(``CombinedTimestepLabelEmbeddings``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save_file

from sida.config.samplers import Sampler
from sida.config.settings import from_mapping
from sida.errors import UserError, say
from sida.files.atomic import write_json
from sida.networks.autoencoder import LATENT_SCALE
from sida.networks.body import Classes, Few, Share, Side, Size
from sida.networks.file import build_on_meta, check_tensors, shapes_of
from sida.networks.saved_models import WEIGHTS, check_class, check_values, read_config, read_state
from sida.plugins.diffusers.files import PLAIN_SCHEDULE, SCHEDULERS, DiffusersFiles, Network
from sida.plugins.transformers.networks import Depth, DiTPrecond, Ratio, SiTPrecond, position_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTOptions:
    """Options of `DiTTransformer2DModel` and of its former class `Transformer2DModel`; most have one value."""

    num_attention_heads: Few = 16
    attention_head_dim: Size = 72
    in_channels: Size = 4
    out_channels: Size | None = None
    num_layers: Depth = 28
    sample_size: Side = 32
    patch_size: Side = 2
    num_embeds_ada_norm: Classes = 1000
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    attention_bias: Literal[True] = True
    norm_elementwise_affine: Literal[False] = False
    cross_attention_dim: None = None
    num_vector_embeds: None = None
    caption_channels: None = None
    interpolation_scale: Literal[1] | None = None
    attention_type: Literal["default"] = "default"
    only_cross_attention: Literal[False] = False
    double_self_attention: Literal[False] = False


#: Options that change nothing: of training, of other kinds of the class, and ε (see the module).
_UNUSED = (
    *("dropout", "norm_num_groups", "upcast_attention", "use_linear_projection", "norm_eps"),
    "use_additional_conditions",
)
#: Settings of a schedule of noise, of which DiT's steps have a straight line of β.
_DIT_SCHEDULE: dict[str, Any] = {"prediction_type": "epsilon", "beta_schedule": "linear", "trained_betas": None}
_DIT_SCHEDULE |= {"rescale_betas_zero_snr": False, **PLAIN_SCHEDULE}
_STEPS = {"num_train_timesteps": "num_steps", "beta_start": "beta_start", "beta_end": "beta_end"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiTOptions:
    """Options of `SiTTransformer2DModel`, whose tensors have SiT's own names."""

    input_size: Side = 32
    patch_size: Side = 2
    in_channels: Size = 4
    hidden_size: Size = 1152
    depth: Depth = 28
    num_heads: Few = 16
    mlp_ratio: Ratio = 4.0
    class_dropout_prob: Share = 0.1
    num_classes: Classes = 1000
    learn_sigma: bool = True
    norm_type: Literal["ln"] = "ln"


#: Most patches of a side; a folder has no table of their positions, which is made here.
_MOST_PATCHES = 128
#: Schedulers of flows; SiT's time runs from noise to data with each of them.
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "SiTFlowMatchScheduler")


def layers(depth: int) -> dict[str, list[str]]:
    """Layers of DiT by its own names, each with those of the library: one, three to be joined, or copies."""
    names = {"x_embedder.proj": ["pos_embed.proj"]}
    names |= {"final_layer.adaLN_modulation.1": ["proj_out_1"], "final_layer.linear": ["proj_out_2"]}
    for own, theirs in _EMBEDDINGS.items():
        names[own] = [f"transformer_blocks.{block}.norm1.emb.{theirs}" for block in range(depth)]
    for block in range(depth):
        inner = {"adaLN_modulation.1": ["norm1.linear"], "attn.proj": ["attn1.to_out.0"]}
        inner |= {"attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"]}
        inner |= {"mlp.fc1": ["ff.net.0.proj"], "mlp.fc2": ["ff.net.2"]}
        for own, parts in inner.items():
            names[f"blocks.{block}.{own}"] = [f"transformer_blocks.{block}.{part}" for part in parts]
    return names


_EMBEDDINGS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
#: Tables of fixed positions in files of some versions.
_POSITIONS = "pos_embed.pos_embed"


def own_state(files: DiffusersFiles, state: Mapping[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """Tensors by DiT's own names, of those by the library's.

    Raises:
        UserError: Blocks have embeddings of their own, which is another network.
    """
    own = {}
    for layer, parts in layers(depth).items():
        for kind in ("weight", "bias"):
            names = [f"{part}.{kind}" for part in parts]
            if names[0] not in state:  # the biases of tables
                continue
            if layer not in _EMBEDDINGS:
                own[f"{layer}.{kind}"] = torch.cat([state[name] for name in names])
                continue
            own[f"{layer}.{kind}"] = state[names[0]]
            if other := [name for name in names if not torch.equal(state[name], state[names[0]])]:
                fault = f"{other[0]} differs from the first block's, as after a training by diffusers"
                raise UserError(files.weights, fault, "read are those of DiT's own code, with one embedding")
    return own


def library_state(net: DiTPrecond) -> dict[str, torch.Tensor]:
    """Tensors of a network by the library's names, the inverse of :func:`own_state`; without its positions."""
    state, theirs = net.state_dict(), dict[str, torch.Tensor]()
    for layer, parts in layers(net.depth).items():
        for kind in ("weight", "bias"):
            if (value := state.get(f"{layer}.{kind}")) is not None:
                pieces = [value] * len(parts) if layer in _EMBEDDINGS else value.chunk(len(parts))
                theirs |= {f"{part}.{kind}": piece.clone() for part, piece in zip(parts, pieces, strict=True)}
    return theirs


_USE = """\
Needs diffusers. `transformer/` is a `DiTTransformer2DModel`, `scheduler/` the schedule of its teacher's training.
The library's frequencies of times differ slightly from DiT's own; the loop below sets DiT's.

```python
import torch
from diffusers import DiTTransformer2DModel

net = DiTTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer").eval()
for block in net.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = 0
z = torch.randn(16, {channels}, {side}, {side})
classes = torch.randint({classes}, (16,))
with torch.no_grad():
    noise = net({scale!r} * z, torch.full((16,), {step!r}), classes).sample[:, :{channels}]
images = {sigma!r} * (z - noise)
```

`images` are latents of Stable Diffusion's decoder, times {latent_scale}, where the network was trained on latents.
With sida-repro: `sida.load("FOLDER").sample(16, seed=0)` draws with the same weights."""


def write_dit(folder: Path, network: Path, net: DiTPrecond, sampler: Sampler) -> str | None:
    """Writes the parts of a `DiTPipeline` without its decoder; returns the card's text on their use.

    Args:
        folder: Folder to write into.
        network: File of the network.
        net: The network.
        sampler: Its steps.

    Returns:
        None, and nothing is written: the generator has several steps or starts from pure noise, or the library's class
        has no such network.
    """
    if sampler.kind != "one_step" or sampler.steps > 1 or isinstance(sampler.init_sigma, str):
        return None
    if net.mlp_ratio != 4 or net.between_steps != "log-linear" or not net.label_dim:
        return None
    sigma, channels, side = float(sampler.init_sigma), net.img_channels, net.img_resolution
    cls, scheduler = "DiTTransformer2DModel", "DDIMScheduler"
    config = {
        "num_attention_heads": net.num_heads,
        "attention_head_dim": net.hidden_size // net.num_heads,
        "in_channels": channels,
        "out_channels": net.outputs,
        "num_layers": net.depth,
        "sample_size": side,
        "patch_size": net.patch_size,
        "num_embeds_ada_norm": net.label_dim,
        "norm_eps": 1e-6,
    }
    schedule = {"beta_schedule": "linear", "prediction_type": "epsilon", "clip_sample": False}
    schedule |= {theirs: getattr(net, own) for theirs, own in _STEPS.items()}
    written = ("transformer", "config.json", cls, config), ("scheduler", "scheduler_config.json", scheduler, schedule)
    for part, file, name, settings in written:
        (folder / part).mkdir()
        write_json(folder / part / file, {"_class_name": name, **settings})
    state = library_state(net)
    if not torch.equal(net.pos_embed, position_table(net.hidden_size, net.side).to(net.pos_embed)):
        state[_POSITIONS] = net.pos_embed
    save_file(state, folder / "transformer" / WEIGHTS, metadata={"format": "pt"})
    parts = {"transformer": ["diffusers", cls], "scheduler": ["diffusers", scheduler]}
    write_json(folder / "model_index.json", {"_class_name": "DiTPipeline", **parts, "init_sigma": sigma})
    return _USE.format(
        channels=channels,
        side=side,
        classes=net.label_dim,
        scale=sigma / math.sqrt(1 + sigma**2),
        step=net.steps(torch.tensor(sigma)).item(),
        sigma=sigma,
        latent_scale=LATENT_SCALE["scaling_factor"],
    )


def read_dit(files: DiffusersFiles, null_label: bool) -> Network:
    """Network and state dict of DiT's files; see `DiffusersFiles.read`.

    Raises:
        UserError: A setting or a tensor that is not read.
    """
    schedule = read_config(files.scheduler)
    check_class(files.scheduler, schedule, SCHEDULERS)
    check_values(files.scheduler, schedule, _DIT_SCHEDULE)
    options = from_mapping(DiTOptions, _settings(files, null_label, _UNUSED), str(files.config))
    outputs = options.out_channels or options.in_channels
    if outputs not in (options.in_channels, 2 * options.in_channels):
        fault = f"out_channels: {outputs}, but in_channels is {options.in_channels}"
        raise UserError(files.config, fault, "read are as many, or twice as many with the variance")
    width = options.num_attention_heads * options.attention_head_dim
    kwargs = {
        "img_resolution": options.sample_size,
        "img_channels": options.in_channels,
        "label_dim": options.num_embeds_ada_norm,
        "patch_size": options.patch_size,
        "hidden_size": width,
        "depth": options.num_layers,
        "num_heads": options.num_attention_heads,
        "learn_sigma": outputs > options.in_channels,
        **{own: schedule[theirs] for theirs, own in _STEPS.items() if theirs in schedule},
    }
    if (side := options.sample_size // options.patch_size) > _MOST_PATCHES:
        fault = f"sample_size: {options.sample_size} is {side} patches a side, most are {_MOST_PATCHES}"
        raise UserError(files.config, fault, "give the size that the network was trained with")
    network = {"class": DiTPrecond.__name__, "kwargs": kwargs}
    net = cast(DiTPrecond, build_on_meta(network, str(files.config)))
    loaded = read_state(files.weights)
    positions = loaded.pop(_POSITIONS, None)
    _check(files, network, loaded, shapes_of(library_state(net)))
    state = own_state(files, loaded, options.num_layers)
    state["pos_embed"] = position_table(width, side) if positions is None else positions
    say(f"{files.where}: all blocks have one embedding, so it computes as DiT's own code, not as diffusers")
    return network, state


def _check(
    files: DiffusersFiles,
    network: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuses weights of other shapes, before a value of them is used."""
    check_tensors(files.weights, network["class"], shapes_of(state), expected, "save the transformer again")


def read_sit(files: DiffusersFiles, null_label: bool) -> Network:
    """Network and state dict of SiT's files; see `DiffusersFiles.read`.

    Raises:
        UserError: A setting that is not read.
    """
    check_class(files.scheduler, read_config(files.scheduler), _FLOWS)
    options = from_mapping(SiTOptions, _settings(files, null_label), str(files.config))
    kwargs = {
        "img_resolution": options.input_size,
        "img_channels": options.in_channels,
        "label_dim": options.num_classes,
        "label_dropout": options.class_dropout_prob,
        **{
            name: getattr(options, name)
            for name in ("patch_size", "hidden_size", "depth", "num_heads", "mlp_ratio", "learn_sigma")
        },
    }
    network = {"class": SiTPrecond.__name__, "kwargs": kwargs}
    state, table = read_state(files.weights), "y_embedder.embedding_table.weight"
    expected = shapes_of(build_on_meta(network, str(files.config)).state_dict())
    rows, width = expected[table]
    # Without dropout of classes the library's table has no row for no class, which the network's table has.
    without = options.class_dropout_prob == 0
    _check(files, network, state, {**expected, table: (rows - without, width)})
    if without:
        state[table] = torch.nn.functional.pad(state[table], (0, 0, 0, 1))
    return network, state


def _settings(files: DiffusersFiles, null_label: bool, unused: tuple[str, ...] = ()) -> dict[str, Any]:
    """Settings of the network's file that count; checks that its latents are those of Stable Diffusion."""
    if null_label:
        raise UserError(files.where, "has a row of its own for no class", "leave out --null-label")
    if files.vae is not None:
        check_values(files.vae, read_config(files.vae), LATENT_SCALE)
    return {key: value for key, value in read_config(files.config).items() if key[:1] != "_" and key not in unused}
