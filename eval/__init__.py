"""eval: features, metrics, protocols, tables, figures and claims for generators of any origin.

Names are loaded on first use: ``import eval`` imports no torch (docs/python.md).
"""

import importlib

#: Modules of the names that this package offers; `__init__.pyi` has their types.
_HOMES = {"score": "eval.scoring"}


def __getattr__(name: str) -> object:
    if name == "results":
        return importlib.import_module("eval.results")
    if name not in _HOMES:
        raise AttributeError(f"module 'eval' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "results"])
