"""Golden vectors: how tests read them and compare with them."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.near import assert_near

GOLDEN = Path(__file__).resolve().parent


def load(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """``load("losses_edm/networks") -> (arrays, info)``; float16-stored parameters come back as float32."""
    info_path = GOLDEN / f"{name}.json"
    info = json.loads(info_path.read_text()) if info_path.exists() else {}
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in arrays.items()}
    return arrays, info


_read_once = functools.cache(load)


def load_tensors(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """As :func:`load`, with tensors, whose values nobody may change: they are those of later calls, too."""
    arrays, info = _read_once(name)
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, info


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Arrays whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def draw(arrays: Mapping[str, Any], number: int) -> Any:
    """The ``number``-th recorded draw of a loss."""
    (name,) = [key for key in arrays if key.startswith(f"draw/{number:02d}_")]
    return arrays[name]


def draws(arrays: Mapping[str, Any], **numbers: int) -> dict[str, Any]:
    """Named draws: ``draws(case, sigma_normal=1, noise=2)``."""
    return {name: draw(arrays, number) for name, number in numbers.items()}


def agree(arrays: Mapping[str, Any], limit: float | None = None, **named: Any) -> None:
    """Each value equals the array of its name, ``__`` standing for ``/``."""
    for name, value in named.items():
        assert_near(value, arrays[name.replace("__", "/")], limit, name=name)
