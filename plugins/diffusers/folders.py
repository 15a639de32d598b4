"""Pipelines of diffusers, in a folder or on the Hugging Face Hub, as networks; nothing in them is executed.

Files are ``unet/config.json`` or ``transformer/config.json``, the weights beside it and
``scheduler/scheduler_config.json``, or the same without folders. ``model_index.json`` names further parts, of which
none is read. The class that the first file names decides how the network is read: `UNet2DModel` here, others by
plugins (registry ``diffusers_models``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sida.assets.cache import fetch
from sida.assets.registry import asset_at, names_on_hub
from sida.config.lookup import our_object
from sida.config.registries import additions, refuse_missing
from sida.errors import UserError, one_line, say
from sida.files.atomic import sha256_file, sha256_json
from sida.networks.diffusers_unet import SCHEDULE, UNET_OPTIONS, DiffusersPrecond
from sida.networks.saved_models import WEIGHTS, check_class, check_values, json_line, read_config, read_state

_INDEX = "model_index.json"
#: Folders of the network; without one its files lie beside those of the scheduler.
_FOLDERS = ("unet", "transformer")
_CONFIGS = (*(f"{folder}/config.json" for folder in _FOLDERS), "config.json")
#: Decoder of a pipeline of latents, of which only the scale of the latents is read.
_VAE = "vae/config.json"
_SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
#: A file of ``torch.save`` instead of :data:`WEIGHTS`, read without executing it.
_BINARY = "diffusion_pytorch_model.bin"
#: Schedulers on discrete steps, all with the defaults of `DDPMScheduler`. Only the training counts, not the sampler.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    "EulerAncestralDiscreteScheduler",
)
#: Settings of a sampler that would change the levels of the schedule, with the values that do not.
PLAIN_SCHEDULE = {"use_flow_sigmas": False, "timestep_type": "discrete"}
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


class DiffusersModel(NamedTuple):
    """A class of the library that becomes a network.

    Attributes:
        parts: Parts that its pipeline may have.
        read: Function of the files and of whether the last class stands for no class, which returns the network
            ``{class, kwargs}`` and its state dict.
    """

    parts: tuple[str, ...]
    read: Callable[[DiffusersFiles, bool], tuple[dict[str, Any], dict[str, torch.Tensor]]]


class DiffusersFiles(NamedTuple):
    """The files of a network and its scheduler.

    Attributes:
        where: Folder or address, named in errors.
        model: How the network is read.
        config, scheduler, weights: Paths.
        vae: Path of the settings of a decoder, or None.
        init_sigma, num_classes: σ_init and number of classes of a generator that `sida export` wrote, else None.
    """

    where: str
    model: DiffusersModel
    config: Path
    scheduler: Path
    weights: Path
    vae: Path | None = None
    init_sigma: Any = None
    num_classes: Any = None

    @property
    def sha256(self) -> str:
        """Digest of all of them."""
        paths = [path for path in (self.config, self.scheduler, self.weights, self.vae) if path]
        return sha256_json([*map(sha256_file, paths), self.init_sigma, self.num_classes])


def files_of(source: str | Path, key: str = "ema") -> DiffusersFiles | None:
    """The files of a folder or of ``hf://OWNER/NAME[@REVISION]``, which are fetched; None if it is not a pipeline.

    Args:
        source: Folder or address.
        key: Weights of a training's checkpoint, which has both: ``ema`` or ``unet_ema``, their average, which diffusers
            draws with; ``unet``, the last ones. (Or ``transformer`` for ``unet``.)

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
    averages = [f"{name}_ema" for name in _FOLDERS]
    candidates = (_INDEX, *(f"{name}/config.json" for name in averages), *_CONFIGS, *_SCHEDULERS, _VAE)
    names = [name for name in candidates if (folder / name).is_file()]
    # Weights have several possible names, which the message lists.
    names += [
        str(path.relative_to(folder))
        for prefix in ("", *(f"{name}/" for name in (*_FOLDERS, *averages)))
        for path in folder.glob(f"{prefix}diffusion_*")
    ]
    return _files(where, names, lambda name: folder / name, key)


def _files(where: str, names: Collection[str], path: Callable[[str], Path], key: str) -> DiffusersFiles | None:
    config, scheduler = (next((name for name in kind if name in names), None) for kind in (_CONFIGS, _SCHEDULERS))
    index = read_config(path(_INDEX)) if _INDEX in names else {}
    if config is None or (config == _CONFIGS[-1] and not index and scheduler is None):
        return None
    model, folder = _model_of(path(config)), config.rpartition("/")[0]
    parts = [name for name, value in index.items() if name[:1] != "_" and isinstance(value, list) and any(value)]
    if other := [one_line(name, 40) for name in parts if name not in model.parts]:
        fault = f"is a pipeline with more than {', '.join(model.parts)} ({', '.join(other[:3])})"
        raise UserError(where, fault, "a network that needs further parts is not read")
    if scheduler is None:
        remedy = "name the folder of the pipeline's save_pretrained, or copy the file of the training there"
        raise UserError(where, f"no {_SCHEDULERS[0]}, which has the noise of each step", remedy)
    if folder and f"{folder}_ema/config.json" in names:
        if key not in ("ema", f"{folder}_ema", folder):
            fault = f"holds {folder}_ema, the average of the weights, and {folder}, the last, not '{one_line(key, 40)}'"
            raise UserError(where, fault, "name one with --key")
        if key != folder:
            config = f"{folder}_ema/config.json"
            say(f"{where}: {folder}_ema is read, the average of the weights; --key {folder} reads the last ones")
    stem = config.removesuffix("config.json")
    weights = next((f"{stem}{name}" for name in (WEIGHTS, _BINARY) if f"{stem}{name}" in names), None)
    if weights is None:
        other = sorted(name for name in names if name.startswith(f"{stem}{WEIGHTS}".removesuffix(".safetensors")))
        # Without its variant from_pretrained does not find the file.
        variant = re.search(r"model\.(\w+)\.(safetensors|bin)$", other[0]) if other else None
        options = f"subfolder='{folder}'{f', variant={variant[1]!r}' if variant else ''}"
        cls = read_config(path(config))["_class_name"]
        remedy = f"write it: {cls}.from_pretrained(FOLDER, {options}).save_pretrained('FOLDER/{folder}')"
        raise UserError(where, f"no {stem}{WEIGHTS}{f', but {one_line(other[0])}' if other else ''}", remedy)
    vae = path(_VAE) if _VAE in names else None
    exported = index.get("init_sigma"), index.get("num_classes")
    return DiffusersFiles(where, model, path(config), path(scheduler), path(weights), vae, *exported)


def _model_of(config: Path) -> DiffusersModel:
    """How the class is read that a file names.

    Raises:
        UserError: It is not read.
    """
    name, added = read_config(config).get("_class_name"), additions("diffusers_models")
    if name in added:
        model: DiffusersModel = our_object(added[name].object)
        return model
    refuse_missing("model of diffusers", "diffusers_models", str(name), str(config))
    check_class(config, {"_class_name": name}, (_UNET_CLASS, *added))
    return UNET


def _read_unet(files: DiffusersFiles, null_label: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Network and state dict of a U-Net's files; see :class:`DiffusersModel`.

    Raises:
        UserError: A setting that is not read, or a label for no class where there are no classes.
    """
    unet, schedule = read_config(files.config), read_config(files.scheduler)
    check_class(files.scheduler, schedule, SCHEDULERS)
    check_values(files.config, unet, _PLAIN)
    check_values(files.scheduler, schedule, PLAIN_SCHEDULE)
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
        fault = f"sample_size: {json_line(side)}"
        raise UserError(files.config, fault, "images are square: give the number of pixels of a side")
    channels = unet.get("in_channels", 3)
    if unet.get("out_channels", 3) != channels:
        fault = f"out_channels: {json_line(unet.get('out_channels', 3))}, but in_channels is {json_line(channels)}"
        raise UserError(files.config, fault, "a U-Net that also predicts a variance is not read")
    classes = unet.get("num_class_embeds") or 0
    if not isinstance(classes, int):
        raise UserError(files.config, f"num_class_embeds: {json_line(classes)}", "give the number of classes")
    if options.get("class_embed_type") not in (None, "timestep") or (options.get("class_embed_type") and not classes):
        fault = f"class_embed_type: {json_line(options['class_embed_type'])}"
        raise UserError(
            files.config, fault, "null is read, and 'timestep' with num_class_embeds, the number of classes"
        )
    if null_label and not classes:
        raise UserError(files.where, "has no classes", "leave out --null-label")
    images = {"img_resolution": side, "img_channels": channels, "label_dim": classes}
    if null_label or (files.num_classes is not None and files.num_classes == classes - 1):
        images |= {"label_dim": classes - 1, "null_label": True}
    network = {"class": DiffusersPrecond.__name__, "kwargs": {**images, **kwargs, **options}}
    return network, read_state(files.weights, "unet.")


_UNET_CLASS = "UNet2DModel"
UNET = DiffusersModel(("unet", "scheduler"), _read_unet)
