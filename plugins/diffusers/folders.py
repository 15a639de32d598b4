"""Pipelines of diffusers, in a folder or on the Hugging Face Hub, as networks; nothing in them is executed.

Files are ``unet/config.json`` or ``transformer/config.json``, the weights beside it and
``scheduler/scheduler_config.json``, or the same without folders. ``model_index.json`` names further parts, of which
none is read. The class that the first file names decides how the network is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from sida.assets.cache import fetch
from sida.errors import UserError, one_line, say
from sida.networks.saved_models import WEIGHTS, check_class, read_config
from sida.plugins.diffusers.files import DiffusersFiles, Network
from sida.plugins.diffusers.transformers import read_dit, read_sit
from sida.plugins.diffusers.unet_folder import read_unet

_INDEX = "model_index.json"
#: Folders of the network; without one its files lie beside those of the scheduler.
_FOLDERS = ("unet", "transformer")
_CONFIGS = (*(f"{folder}/config.json" for folder in _FOLDERS), "config.json")
#: Decoder of a pipeline of latents, of which only the scale of the latents is read.
_VAE = "vae/config.json"
_SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
#: A file of ``torch.save`` instead of :data:`WEIGHTS`, read without executing it.
_BINARY = "diffusion_pytorch_model.bin"


class _Model(NamedTuple):
    """A class of the library: parts that its pipeline may have, and how its files are read."""

    parts: tuple[str, ...]
    read: Callable[[DiffusersFiles, bool], Network]


_OF_LATENTS = ("transformer", "scheduler", "vae")
_MODELS = {
    "UNet2DModel": _Model(("unet", "scheduler"), read_unet),
    "DiTTransformer2DModel": _Model(_OF_LATENTS, read_dit),
    "Transformer2DModel": _Model(_OF_LATENTS, read_dit),
    "SiTTransformer2DModel": _Model(_OF_LATENTS, read_sit),
}


def open_folder(source: str, names: Collection[str] | None, key: str = "ema") -> DiffusersFiles:
    """The files of a folder or of a repository on the Hub, which are fetched.

    Args:
        source: Folder or ``hf://OWNER/NAME[@REVISION]``.
        names: Files of the repository; None: a folder.
        key: Weights of a training's checkpoint, which has both: ``ema`` or ``unet_ema``, their average, which diffusers
            draws with; ``unet``, the last ones. (Or ``transformer`` for ``unet``.)

    Raises:
        UserError: It is a pipeline with other parts, or a file is missing.
    """
    if names is not None:
        return _files(source, names, lambda name: fetch(f"{source}/{name}"), key)
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
    return _files(source, names, lambda name: folder / name, key)


def _files(where: str, names: Collection[str], path: Callable[[str], Path], key: str) -> DiffusersFiles:
    config, scheduler = (next((name for name in kind if name in names), None) for kind in (_CONFIGS, _SCHEDULERS))
    index = read_config(path(_INDEX)) if _INDEX in names else {}
    if config is None:
        raise UserError(where, f"none of {', '.join(_CONFIGS)}", "name the folder of the pipeline's save_pretrained")
    cls, folder = read_config(path(config)).get("_class_name"), config.rpartition("/")[0]
    check_class(path(config), {"_class_name": cls}, _MODELS)
    model = _MODELS[str(cls)]
    parts = [name for name, value in index.items() if name[:1] != "_" and isinstance(value, list) and any(value)]
    if other := [one_line(name, 40) for name in parts if name not in model.parts]:
        fault = f"is a pipeline with more than {', '.join(model.parts)} ({', '.join(other[:3])})"
        raise UserError(where, fault, "a network that needs further parts is not read")
    if scheduler is None:
        remedy = "name the folder of the pipeline's save_pretrained, or copy the file of the training there"
        raise UserError(where, f"no {_SCHEDULERS[0]}, which has the noise of each step", remedy)
    prefix = _prefix(where, names, folder, key)
    weights = _weights(where, names, prefix, folder, str(cls))
    vae = path(_VAE) if _VAE in names else None
    exported = index.get("init_sigma"), index.get("num_classes")
    files = path(f"{prefix}config.json"), path(scheduler), path(weights)
    return DiffusersFiles(where, model.read, *files, vae, *exported)


def _prefix(where: str, names: Collection[str], folder: str, key: str) -> str:
    """Path before the names of the network's files: of its folder, or of the average in a training's checkpoint.

    Raises:
        UserError: The key names neither.
    """
    if not folder:
        return ""
    average = f"{folder}_ema"
    if f"{average}/config.json" not in names:
        return f"{folder}/"
    if key not in ("ema", average, folder):
        fault = f"holds {average}, the average of the weights, and {folder}, the last, not '{one_line(key, 40)}'"
        raise UserError(where, fault, "name one with --key")
    if key == folder:
        return f"{folder}/"
    say(f"{where}: {average} is read, the average of the weights; --key {folder} reads the last ones")
    return f"{average}/"


def _weights(where: str, names: Collection[str], prefix: str, folder: str, cls: str) -> str:
    """Name of the file with the network's tensors.

    Raises:
        UserError: There is none, or only one that the library finds by a further name (its variant).
    """
    weights = next((f"{prefix}{name}" for name in (WEIGHTS, _BINARY) if f"{prefix}{name}" in names), None)
    if weights is not None:
        return weights
    other = sorted(name for name in names if name.startswith(f"{prefix}{WEIGHTS}".removesuffix(".safetensors")))
    variant = re.search(r"model\.(\w+)\.(safetensors|bin)$", other[0]) if other else None
    options = f"subfolder='{folder}'{f', variant={variant[1]!r}' if variant else ''}"
    remedy = f"write it: {cls}.from_pretrained(FOLDER, {options}).save_pretrained('FOLDER/{folder}')"
    raise UserError(where, f"no {prefix}{WEIGHTS}{f', but {one_line(other[0])}' if other else ''}", remedy)
