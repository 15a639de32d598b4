"""Autoencoders of diffusers in a folder, which decode latents; nothing in the folder is executed.

The package's own `AutoencoderKL` computes. Its options are read from ``config.json`` within bounds, and its tensors as
those of other networks: by exact names and shapes, and without NaN.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.networks.body import Few, Size
from sida.networks.file import building_on_meta, check_tensors, shapes_of
from sida.networks.saved_models import WEIGHTS, check_class, check_values, diffusers_library, read_config, read_state

#: Most blocks, each of which but the last doubles the sides of an image.
_MOST_BLOCKS = 6
#: Settings of a pipeline's latents: those of Stable Diffusion, from which all kinds of latents here are made.
LATENT_SCALE = {"scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None}
#: Options that change nothing in a whole image.
_UNUSED = ("sample_size", "force_upcast")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """Options of `AutoencoderKL` with its defaults; images are RGB, and latents have four channels."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    latent_channels: Literal[4] = 4
    down_block_types: tuple[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[Size, ...] = (64,)
    layers_per_block: Few = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    norm_num_groups: Size = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


def load_vae(path: str, device: str | torch.device = "cpu") -> Any:
    """Loads diffusers' `AutoencoderKL` in evaluation mode.

    Args:
        path: Folder of ``AutoencoderKL.save_pretrained``: ``config.json`` and weights in safetensors.
        device: Device of the autoencoder.

    Returns:
        The autoencoder in float32, without gradients of its parameters.

    Raises:
        UserError: The optional package is not installed; a file is missing; an option is unknown or out of range; or
            the tensors are not exactly those of the options, or hold NaN.
    """
    autoencoder = diffusers_library("latent diffusion").AutoencoderKL
    config_file, weights = Path(path, "config.json"), Path(path, WEIGHTS)
    for file in (config_file, weights):
        if not file.is_file():
            raise UserError(file, "no such file", "name a folder of AutoencoderKL.save_pretrained")
    options = _options(config_file)
    with building_on_meta(path, autoencoder.__name__):
        vae: Any = autoencoder(**dataclasses.asdict(options))
    state = read_state(weights)
    check_tensors(weights, autoencoder.__name__, shapes_of(state), shapes_of(vae.state_dict()), "save it again")
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.eval().requires_grad_(False).to(device)


def _options(path: Path) -> AutoencoderOptions:
    """Options of a file.

    Raises:
        UserError: The file is of another class, or has an option that is not read.
    """
    config = read_config(path)
    check_class(path, config, ("AutoencoderKL",))
    check_values(path, config, LATENT_SCALE)
    read = {key: value for key, value in config.items() if key[:1] != "_" and key not in (*LATENT_SCALE, *_UNUSED)}
    options = from_mapping(AutoencoderOptions, read, str(path))
    lengths = {len(options.down_block_types), len(options.up_block_types), len(options.block_out_channels)}
    if len(lengths) > 1 or not 1 <= max(lengths) <= _MOST_BLOCKS:
        fault = f"the blocks down and up and their channels must be lists of one length, 1 to {_MOST_BLOCKS}"
        raise UserError(f"{path}: block_out_channels", fault, "compare it with the original")
    return options
