"""Golden vectors: how tests read them and compare with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).resolve().parent


def load(name: str) -> tuple[dict[str, np.ndarray], dict]:
    """``load("losses_edm/networks") -> (arrays, info)``; float16-stored parameters come back as float32."""
    info_path = GOLDEN / f"{name}.json"
    info = json.loads(info_path.read_text()) if info_path.exists() else {}
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    arrays = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in arrays.items()}
    return arrays, info


def relative_error(actual, expected) -> float:
    """Largest absolute difference divided by the largest magnitude of ``expected``."""
    actual = actual.detach().cpu().numpy() if hasattr(actual, "detach") else np.asarray(actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape} != {expected.shape}"
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()) / scale


def agree(arrays: Mapping[str, Any], limit: float = 1e-5, **named: Any) -> None:
    """Each value equals the array of its name, ``__`` standing for ``/``."""
    for name, value in named.items():
        assert relative_error(value, arrays[name.replace("__", "/")]) < limit, name
