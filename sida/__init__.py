"""sida: score identity distillation (SiD, SiDA, SiD2A) of diffusion teachers into one-step generators.

Names are loaded on first use: ``import sida`` takes milliseconds and imports no torch (docs/python.md).
"""

import functools
import importlib
import re
import sys
from collections.abc import Callable

__version__ = "0.1.0"


def late_names(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Makes ``__getattr__`` and ``__dir__`` of a package; its ``__init__.pyi`` says which module has each name.

    Args:
        package: ``__name__`` of the package.
    """

    @functools.cache
    def modules() -> dict[str, str]:
        with open(f"{sys.modules[package].__file__}i", encoding="utf-8") as stub:
            return {name: module for module, name in re.findall(r"^from (\S+) import (\w+)", stub.read(), re.M)}

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules()})

    def get(name: str) -> object:
        home = modules().get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if home == package:  # a module of the package itself
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(home), name)

    return get, names


__getattr__, __dir__ = late_names(__name__)
