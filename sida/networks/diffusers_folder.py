"""Pipelines of diffusers, in a folder or on the Hugging Face Hub, as networks; nothing in them is executed.

Files are ``unet/config.json``, ``scheduler/scheduler_config.json`` and the U-Net's weights, or the same without
folders. ``model_index.json`` names further parts, of which none is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sida.assets.cache import fetch
from sida.assets.registry import asset_at, names_on_hub
from sida.errors import UserError, one_line, say
from sida.files.atomic import sha256_file, sha256_json
from sida.files.state_dicts import read_state_dict
from sida.files.text_files import parse_json, read_text
from sida.networks.diffusers_unet import SCHEDULE, UNET_OPTIONS, DiffusersPrecond
from sida.networks.file import check_finite

_INDEX = "model_index.json"
_CONFIGS = ("unet/config.json", "config.json")
#: Folder of the average of the weights in a checkpoint of a training, and the keys that take it.
_EMA, _EMA_KEYS = "unet_ema", ("ema", "unet_ema")
_SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
#: File of a model's weights.
WEIGHTS = "diffusion_pytorch_model.safetensors"
#: Schedulers on discrete steps, all with the defaults of `DDPMScheduler`. Only the training counts, not the sampler.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    "EulerAncestralDiscreteScheduler",
)
#: Settings of a sampler that would change the levels of the schedule, with the values that do not.
_PLAIN_SCHEDULE = {"use_flow_sigmas": False, "timestep_type": "discrete"}
#: Options of `UNet2DModel` that are read only with these values; and what else its file may have.
_PLAIN = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "num_train_timesteps": None,
}
_IMAGES = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
#: Facts of an average of weights that `EMAModel` adds to the file of a U-Net.
_AVERAGE = (
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"),
    "foreach",
)
#: Names of attention layers in files of diffusers before 0.12.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersFiles(NamedTuple):
    """The files of a U-Net and its scheduler.

    Attributes:
        where: Folder or address, named in errors.
        config, scheduler, weights: Paths.
        init_sigma, num_classes: σ_init and number of classes of a generator that `sida export` wrote, else None.
    """

    where: str
    config: Path
    scheduler: Path
    weights: Path
    init_sigma: Any = None
    num_classes: Any = None

    @property
    def sha256(self) -> str:
        """Digest of all three."""
        return sha256_json([*map(sha256_file, (self.config, self.scheduler, self.weights)), *self[4:]])


def files_of(source: str | Path, key: str = "ema") -> DiffusersFiles | None:
    """The files of a folder or of ``hf://OWNER/NAME[@REVISION]``, which are fetched; None if it is not a pipeline.

    Args:
        source: Folder or address.
        key: Weights of a training's checkpoint, which has both: ``ema`` or ``unet_ema``, their average, which diffusers
            draws with; ``unet``, the last ones.

    Raises:
        UserError: It is a pipeline with other parts, or a file is missing.
    """
    where = str(source)
    if where.startswith("hf://"):
        hub = asset_at(where).hub
        if hub is None or hub[2] or "#" in where:
            return None
        return _files(where, names_on_hub(*hub[:2]), lambda name: fetch(f"{where}/{name}"), key)
    folder = Path(source)
    average = f"{_EMA}/config.json"
    names = [name for name in (_INDEX, average, *_CONFIGS, *_SCHEDULERS) if (folder / name).is_file()]
    # Weights have several possible names, which the message lists.
    names += [
        str(path.relative_to(folder))
        for prefix in ("", "unet/", f"{_EMA}/")
        for path in folder.glob(f"{prefix}diffusion_*")
    ]
    return _files(where, names, lambda name: folder / name, key)


def _files(where: str, names: Collection[str], path: Callable[[str], Path], key: str) -> DiffusersFiles | None:
    config, scheduler = (next((name for name in kind if name in names), None) for kind in (_CONFIGS, _SCHEDULERS))
    index = read_config(path(_INDEX)) if _INDEX in names else {}
    if config is None or (config == _CONFIGS[1] and not index and scheduler is None):
        return None
    parts = [
        key for key, value in index.items() if key[:1] != "_" and isinstance(value, list) and value != [None, None]
    ]
    if other := [one_line(key, 40) for key in parts if key not in ("unet", "scheduler")]:
        fault = f"is a pipeline with more than a U-Net and its scheduler ({', '.join(other[:3])})"
        raise UserError(where, fault, "a UNet2DModel of pixels is read")
    if scheduler is None:
        remedy = "name the folder of DDPMPipeline.save_pretrained, or copy the file of the training there"
        raise UserError(where, f"no {_SCHEDULERS[0]}, which has the noise of each step", remedy)
    if f"{_EMA}/config.json" in names:
        if key not in (*_EMA_KEYS, "unet"):
            fault = f"holds {_EMA}, the average of the weights, and unet, the last ones, not '{one_line(key, 40)}'"
            raise UserError(where, fault, "name one with --key")
        if key in _EMA_KEYS:
            config = f"{_EMA}/config.json"
            say(f"{where}: {_EMA} is read, the average of the weights; --key unet reads the last ones")
    weights = config.removesuffix("config.json") + WEIGHTS
    if weights not in names:
        other = sorted(name for name in names if name.startswith(weights.removesuffix(".safetensors")))
        # Without its variant from_pretrained does not find the file.
        variant = re.search(r"model\.(\w+)\.(safetensors|bin)$", other[0]) if other else None
        options = f"subfolder='unet'{f', variant={variant[1]!r}' if variant else ''}"
        remedy = f"write it: UNet2DModel.from_pretrained(FOLDER, {options}).save_pretrained('FOLDER/unet')"
        raise UserError(where, f"no {weights}{f', but {one_line(other[0])}' if other else ''}", remedy)
    exported = index.get("init_sigma"), index.get("num_classes")
    return DiffusersFiles(where, path(config), path(scheduler), path(weights), *exported)


def read_config(path: Path) -> dict[str, Any]:
    """Content of a file of settings.

    Raises:
        UserError: It is not a JSON mapping.
    """
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise UserError(path, "is not a JSON mapping")
    return value


def network_config(files: DiffusersFiles, null_label: bool = False) -> dict[str, Any]:
    """The ``{class, kwargs}`` of the files.

    Args:
        files: See :func:`files_of`.
        null_label: Whether the last class stands for no class.

    Raises:
        UserError: Another class, a setting that is not read, or a label for no class where there are no classes.
    """
    unet, schedule = read_config(files.config), read_config(files.scheduler)
    check_class(files.config, unet, ("UNet2DModel",))
    check_class(files.scheduler, schedule, SCHEDULERS)
    check_values(files.config, unet, _PLAIN)
    check_values(files.scheduler, schedule, _PLAIN_SCHEDULE)
    kwargs = {name: schedule[name] for name in SCHEDULE if name in schedule}
    options = {
        key: value for key, value in unet.items() if key[:1] != "_" and key not in (*_PLAIN, *_IMAGES, *_AVERAGE)
    }
    if unknown := [key for key in options if key not in UNET_OPTIONS]:
        raise UserError(files.config, f"{one_line(unknown[0], 80)}: not read", "a UNet2DModel is read")
    side = unet.get("sample_size")
    if isinstance(side, list) and len(side) == 2 and side[0] == side[1]:
        side = side[0]
    if not isinstance(side, int):
        fault = f"sample_size: {_json_line(side)}"
        raise UserError(files.config, fault, "images are square: give the number of pixels of a side")
    channels = unet.get("in_channels", 3)
    if unet.get("out_channels", 3) != channels:
        fault = f"out_channels: {_json_line(unet.get('out_channels', 3))}, but in_channels is {_json_line(channels)}"
        raise UserError(files.config, fault, "a U-Net that also predicts a variance is not read")
    classes = unet.get("num_class_embeds") or 0
    if not isinstance(classes, int):
        raise UserError(files.config, f"num_class_embeds: {_json_line(classes)}", "give the number of classes")
    if options.get("class_embed_type") not in (None, "timestep") or (options.get("class_embed_type") and not classes):
        fault = f"class_embed_type: {_json_line(options['class_embed_type'])}"
        raise UserError(
            files.config, fault, "null is read, and 'timestep' with num_class_embeds, the number of classes"
        )
    if null_label and not classes:
        raise UserError(files.where, "has no classes", "leave out --null-label")
    images = {"img_resolution": side, "img_channels": channels, "label_dim": classes}
    if null_label or (files.num_classes is not None and files.num_classes == classes - 1):
        images |= {"label_dim": classes - 1, "null_label": True}
    return {"class": DiffusersPrecond.__name__, "kwargs": {**images, **kwargs, **options}}


def _json_line(value: Any) -> str:
    return one_line(json.dumps(value), 80)


def check_class(path: Path, config: Mapping[str, Any], classes: Collection[str]) -> None:
    """Refuses settings of other classes."""
    name = config.get("_class_name")
    if name not in classes:
        raise UserError(path, f"_class_name: {_json_line(name)}", f"read are {', '.join(classes)}")


def check_values(path: Path, config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Refuses options of a file whose value is not the supported one."""
    for key, value in supported.items():
        if config.get(key, value) != value:
            raise UserError(path, f"{key}: {_json_line(config[key])}", f"read is {_json_line(value)}")


def read_state(weights: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a model in float32, by the names of the current library behind a prefix.

    Raises:
        UserError: The file is not safetensors, or is damaged, or a tensor is not of floating point or holds NaN.
    """
    names = "|".join(_OLD)
    renamed = lambda name: re.sub(rf"(?<=attentions\.)(\d+)\.({names})\.", lambda m: f"{m[1]}.{_OLD[m[2]]}.", name)
    state = {}
    for name, tensor in read_state_dict(weights).items():
        if not tensor.is_floating_point():
            fault = f"tensor '{one_line(name, 80)}' has the type {str(tensor.dtype).removeprefix('torch.')}"
            raise UserError(weights, fault, "weights are floats: save them without quantization")
        state[f"{prefix}{renamed(name)}"] = values = tensor.float()
        check_finite(weights, name, values, "take another snapshot")
    return state
