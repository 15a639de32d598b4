"""sida: score identity distillation (SiD, SiDA, SiD2A) of diffusion teachers into one-step generators.

Names are loaded on first use: ``import sida`` takes milliseconds and imports no torch (docs/python.md).
"""

import importlib

__version__ = "0.1.0"

#: Modules of the names that this package offers; `__init__.pyi` has their types.
_HOMES = {
    "LoadedGenerator": "sida.sampling.generator",
    "distill": "sida.methods",
    "load": "sida.sampling.generator",
    "train_teacher": "sida.training",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sida' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
