"""Distillation methods: their definition, the registry, one file per method, recipes and their resolution.

Names are loaded on first use, so that command lines can list the methods without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sida.methods.distillation import distill
    from sida.methods.distiller import Distiller
    from sida.methods.method import Method
    from sida.methods.registry import GDD, GDD_I, INSTANCE, METHODS, SID, SID2A, SIDA, find_method, is_method
    from sida.methods.resolve import DistillConfig, resolve_recipe

__all__ = [
    "DistillConfig",
    "Distiller",
    "GDD",
    "GDD_I",
    "INSTANCE",
    "METHODS",
    "Method",
    "SID",
    "SID2A",
    "SIDA",
    "distill",
    "find_method",
    "is_method",
    "resolve_recipe",
]

_HOMES = {
    "DistillConfig": "resolve",
    "Distiller": "distiller",
    "GDD": "registry",
    "GDD_I": "registry",
    "INSTANCE": "registry",
    "METHODS": "registry",
    "Method": "method",
    "SID": "registry",
    "SID2A": "registry",
    "SIDA": "registry",
    "distill": "distillation",
    "find_method": "registry",
    "is_method": "registry",
    "resolve_recipe": "resolve",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
