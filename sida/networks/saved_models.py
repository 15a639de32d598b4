"""Models in folders of diffusers: settings in ``config.json`` and tensors beside it; nothing in them is executed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from sida.config.lookup import how_to_install
from sida.errors import UserError, one_line
from sida.files.state_dicts import read_state_dict
from sida.files.tensors import check_finite
from sida.files.text_files import parse_json, read_text

#: File of a model's weights.
WEIGHTS = "diffusion_pytorch_model.safetensors"
#: Names of attention layers in files of diffusers before 0.12.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def diffusers_library(where: str) -> Any:
    """The package diffusers.

    Args:
        where: Feature that needs it, named in the error.

    Raises:
        UserError: It is not installed.
    """
    try:
        import diffusers
    except ImportError:
        fault, remedy = "the package diffusers is not installed", how_to_install("diffusers>=0.27")
        raise UserError(where, fault, remedy) from None
    return diffusers


def read_config(path: Path) -> dict[str, Any]:
    """Content of a file of settings.

    Raises:
        UserError: It is not a JSON mapping.
    """
    value = parse_json(read_text(path), str(path))
    if not isinstance(value, dict):
        raise UserError(path, "is not a JSON mapping")
    return value


def json_line(value: Any) -> str:
    """A value of a file of settings, for a message."""
    return one_line(json.dumps(value), 80)


def check_class(path: Path, config: Mapping[str, Any], classes: Collection[str]) -> None:
    """Refuses settings of other classes."""
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in classes:
        raise UserError(path, f"_class_name: {json_line(name)}", f"read are {', '.join(classes)}")


def check_values(path: Path, config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Refuses options of a file whose value is not the supported one."""
    for key, value in supported.items():
        if config.get(key, value) != value:
            raise UserError(path, f"{key}: {json_line(config[key])}", f"read is {json_line(value)}")


def read_state(weights: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a model in float32, by the names of the current library behind a prefix.

    Raises:
        UserError: The file is not safetensors, or is damaged; two tensors have one name; or a tensor is not of floating
            point or holds NaN.
    """
    names = "|".join(_OLD)
    renamed = lambda name: re.sub(rf"(?<=attentions\.)(\d+)\.({names})\.", lambda m: f"{m[1]}.{_OLD[m[2]]}.", name)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in read_state_dict(weights).items():
        if not tensor.is_floating_point():
            fault = f"tensor '{one_line(name, 80)}' has the type {str(tensor.dtype).removeprefix('torch.')}"
            raise UserError(weights, fault, "weights are floats: save them without quantization")
        if (new_name := f"{prefix}{renamed(name)}") in state:
            raise UserError(
                weights, f"tensor '{one_line(name, 80)}' is there twice, by two names", "remove one of them"
            )
        state[new_name] = values = tensor.float()
        check_finite(weights, name, values, "take another snapshot")
    return state
