"""Objects of other people's modules, named ``module:object``: generators, monitors, methods.

A module is looked for in the working folder, then where Python looks for modules.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sida.errors import UserError, suggestion
from sida.io import sha256_file
from sida.ranges import names_object


def load_object(name: str, where: str, kind: str = "object") -> tuple[ModuleType, Any]:
    """Imports ``module:object``.

    Args:
        name: Module with dots, a colon, and the name in it.
        where: Place named in errors.
        kind: What the object is, for errors: ``function``, ``factory``, ``method``.

    Returns:
        The module and the object.

    Raises:
        UserError: Not of that form, no such module, or nothing of that name in it.
    """
    if not names_object(name):
        raise UserError(f"{where}: must be 'module:{kind}', got '{name}'")
    place, _, attribute = name.partition(":")
    here = str(Path.cwd())
    # `python -m` looks into the working folder, a console script does not.
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise UserError(
            f"{where}: cannot import '{name}' ({error}); is the module in this folder or on PYTHONPATH?"
        ) from None
    if not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if key[0] != "_" and not _imported(value, place)]
        fault = f"the module has no {kind} '{attribute}'{suggestion(attribute, own)}"
        raise UserError(f"{where}: cannot import '{name}': {fault}")
    return module, getattr(module, attribute)


def _imported(value: Any, place: str) -> bool:
    """Whether a module's value is another module, or a function or class of another module."""
    code = inspect.isroutine(value) or inspect.isclass(value)
    return inspect.ismodule(value) or (code and value.__module__ != place)


def source_sha256(item: Any) -> str | None:
    """SHA-256 of the source file of a module or function; None where it has none."""
    source = inspect.getsourcefile(inspect.unwrap(item))
    return sha256_file(source) if source else None
