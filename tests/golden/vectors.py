"""Golden vectors: how tests read them and compare with them."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).resolve().parent
#: Limits of the relative errors of values, and of gradients of losses.
VALUE, GRADIENT = 1e-5, 2e-4


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


def relative_error(actual, expected) -> float:
    """Largest absolute difference divided by the largest magnitude of ``expected``; both have the same NaNs."""
    actual = actual.detach().cpu().numpy() if hasattr(actual, "detach") else np.asarray(actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape} != {expected.shape}"
    wrong = np.isnan(expected)
    assert np.array_equal(np.isnan(actual), wrong), "other values are NaN"
    actual, expected = (np.where(wrong, 0, values).astype(np.float64) for values in (actual, expected))
    return float(np.abs(actual - expected).max()) / (float(np.abs(expected).max()) or 1.0)


def agree(arrays: Mapping[str, Any], limit: float = VALUE, **named: Any) -> None:
    """Each value equals the array of its name, ``__`` standing for ``/``."""
    for name, value in named.items():
        assert relative_error(value, arrays[name.replace("__", "/")]) < limit, name
