"""sida: score identity distillation (SiD, SiDA, SiD2A) of diffusion teachers into one-step generators.

Names are loaded on first use: ``import sida`` takes milliseconds and imports no torch (docs/python.md).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

__version__ = "0.1.0"


def late_names(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Makes ``__getattr__`` and ``__dir__`` of a package; its ``__init__.pyi`` says which module has each name.

    Args:
        package: ``__name__`` of the package.
    """
    modules: dict[str, str] = {}

    def names() -> list[str]:
        import re

        with open(f"{sys.modules[package].__file__}i", encoding="utf-8") as stub:
            found = re.findall(r"^from (\S+) import (\w+)", stub.read(), re.M)
        modules.update((name, module) for module, name in found)
        return sorted({*vars(sys.modules[package]), *modules})

    def get(name: str) -> object:
        if name not in modules and name not in names():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(modules[name])
        return importlib.import_module(f"{package}.{name}") if modules[name] == package else getattr(home, name)

    return get, names


__getattr__, __dir__ = late_names(__name__)
