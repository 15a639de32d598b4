"""Objects of other people's modules, named ``module:object``: generators, monitors, methods.

A module is looked for in the working folder, then where Python looks for modules. Importing it runs it, and whoever
sends a study, a spec or a network chooses the name. So a name is imported only with the permission of the user, which
no file can give: the environment variable ``SIDA_ALLOW_CODE``, or the name itself, typed on the command line. The same
holds for files and folders that are code. A function of this package may start a program or write a file, too: of its
objects a file names :data:`MONITOR` and the short names of registries (methods, networks, kinds, extractors).
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from sida.config.ranges import names_object
from sida.errors import UserError, suggestion
from sida.files.atomic import sha256_file, sha256_json

#: Modules, ``module:object``, or places with a slash, with commas between; a module or folder stands for those below
#: it, ``*`` for all.
ALLOW = "SIDA_ALLOW_CODE"
#: The one object of this package that files name as ``module:object``.
MONITOR = "eval.measuring.monitor:make_monitor"
#: "no": names on the command line are not the user's. The workflow says so, whose jobs get theirs from files.
TYPED = "SIDA_TYPED_CODE"
_OURS = ("sida", "eval")
#: Options of feature networks whose value is code: a folder with ``hubconf.py``, a TorchScript file.
_PLACE = re.compile(r"(?:dinov2|inception)\w*\.(?:repository|path)=(.+)")
_NAME = re.compile(r"(?<![\w.:/-])[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?![\w:/.])")


def allowed(name: str) -> bool:
    """Whether ``module:object`` is the package's :data:`MONITOR`, or the user gave permission for it."""
    parts = name.partition(":")[0].split(".")
    names = {"*", name, *(".".join(parts[: count + 1]) for count in range(len(parts)))}
    return is_registered(name) or bool(_entries() & names)


def is_registered(name: str) -> bool:
    """Whether ``module:object`` is what any file may name."""
    return name == MONITOR and is_ours(name)


def check_code_path(path: str | os.PathLike[str], kind: str, remedy: str = "") -> None:
    """Refuses a file or folder that is code, unless the user gave permission for it or a folder above it.

    Args:
        path: The file or folder.
        kind: What it is, for errors.
        remedy: What to set or type; by default :data:`ALLOW` with the path.

    Raises:
        UserError: The user gave no permission.
    """
    place, entries = Path(path).resolve(), _entries()
    if "*" not in entries and not any(place.is_relative_to(Path(e).resolve()) for e in entries if "/" in e):
        remedy = remedy or f"set {ALLOW}={place}"
        raise UserError(
            f"{path}: is {kind}, which is not used without permission; read it, and if you trust it, {remedy}"
        )


def _entries() -> set[str]:
    return {entry.strip() for entry in os.environ.get(ALLOW, "").split(",")}


def allow(names: Iterable[str]) -> None:
    """Gives the user's word for some names, in this process and those that it starts."""
    words = [word for word in os.environ.get(ALLOW, "").split(",") if word]
    os.environ[ALLOW] = ",".join(dict.fromkeys([*words, *names]))


def allow_typed(arguments: Iterable[str]) -> None:
    """Allows what stands on a command line itself, not in a file that it names."""
    found = [name for argument in arguments for name in _NAME.findall(argument)]
    found += [str(Path(place).resolve()) for argument in arguments for place in _PLACE.findall(argument)]
    if found and os.environ.get(TYPED) != "no":
        allow(found)


def refusal(name: str) -> str:
    """Why a name is not imported and what the user can do, in words that follow the name."""
    source = source_file(name)
    lies = f" ({source})" if source else ""
    kind = f"no object that files may name, as '{MONITOR}' is" if is_ours(name) else "code from outside this package"
    return (
        f"is {kind}{lies}, which is not run because a file names it; "
        f"read it, and if you trust it, set {ALLOW}={name.partition(':')[0]}"
    )


def source_file(name: str) -> str | None:
    """The file that importing ``module:object`` would run, found without running anything; None where there is none."""
    places, spec = [str(Path.cwd()), *sys.path], None
    for part in name.partition(":")[0].split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def is_ours(name: str) -> bool:
    """Whether ``module:object`` is of this package, and not of a folder of its name which came with a study."""
    package = re.split("[.:]", name)[0]
    if package not in _OURS:
        return False
    spec = importlib.util.find_spec(package)
    here = Path(__file__).resolve().parents[2]
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parents[1] == here


def our_object(name: str) -> Any:
    """An object of this package by ``module:object``, which our own code says and no file."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def load_object(name: str, where: str, kind: str = "object") -> tuple[ModuleType, Any]:
    """Imports ``module:object``.

    Args:
        name: Module with dots, a colon, and the name in it.
        where: Place named in errors.
        kind: What the object is, for errors: ``function``, ``factory``, ``method``.

    Returns:
        The module and the object.

    Raises:
        UserError: Not of that form, from outside and not allowed, no such module, a fault in it, or nothing of that
            name in it.
    """
    if not names_object(name):
        raise UserError(f"{where}: must be 'module:{kind}', got '{name}'")
    if not allowed(name):
        raise UserError(f"{where}: '{name}' {refusal(name)}")
    place, _, attribute = name.partition(":")
    here = str(Path.cwd())
    # `python -m` looks into the working folder, a console script does not.
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(place)
    except (Exception, SystemExit) as error:
        fault = _fault(error, name) or f"({error}); is the module in this folder or on PYTHONPATH?"
        raise UserError(f"{where}: cannot import '{name}' {fault}") from None
    if not hasattr(module, attribute):
        own = [key for key, value in vars(module).items() if key[0] != "_" and not _imported(value, place)]
        fault = f"the module has no {kind} '{attribute}'{suggestion(attribute, own)}"
        raise UserError(f"{where}: cannot import '{name}': {fault}")
    return module, getattr(module, attribute)


def load_class(name: str, where: str, base: type, known_as: str) -> type[Any]:
    """Imports ``module:object``, which must be a class of a kind.

    Args:
        name: As for :func:`load_object`.
        where: Place named in errors.
        base: What it must be derived from.
        known_as: Where users import ``base`` from, for errors.

    Raises:
        UserError: As :func:`load_object`, or it is no such class.
    """
    found = load_object(name, where, "class")[1]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{where}: '{name}' must be a subclass of {known_as}; derive it from that")
    return found


def _imported(value: Any, place: str) -> bool:
    """Whether a module's value is another module, or a function or class of another module."""
    code = inspect.isroutine(value) or inspect.isclass(value)
    return inspect.ismodule(value) or (code and value.__module__ != place)


def _fault(error: BaseException, name: str) -> str | None:
    """Where and why a module ended while it was imported, in words that follow its name; None where there is no module.

    Of all places it is the last in the module's own folder: what a library raises is the fault of who calls it.
    """
    source = source_file(name)
    if source is None:
        return None
    folder = Path(source).resolve().parent
    places = [(Path(frame.filename), frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    words = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError) and error.filename:
        places.append((Path(error.filename), error.lineno or 0))
        words = f"{type(error).__name__}: {error.msg}"
    inside = [place for place in places if place[0].is_file() and folder in place[0].resolve().parents]
    own = [place for place in inside if "site-packages" not in place[0].parts]
    file, line = own[-1] if own else (Path(source), 1)
    shown = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    return f"({shown}, line {line}: {words}); mend it there"


def source_sha256(item: Any) -> str | None:
    """SHA-256 of the source file of a module or function; None where it has none."""
    source = inspect.getsourcefile(inspect.unwrap(item))
    return sha256_file(source) if source else None


def code_sha256(module: ModuleType, found: Any) -> str | None:
    """SHA-256 of the source of what :func:`load_object` gave; None where it has none.

    It covers the named module (a package with all modules in it) and, from outside this package, those where the object
    is defined, or the functions and classes that it holds. Of a single file it is that of its bytes.
    """
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    files = {file.resolve() for folder in folders for file in folder.rglob("*.py")}
    # A class's own functions lie where it does, or were made for it.
    held = [found] if inspect.isclass(found) else [found, *getattr(found, "__dict__", {}).values()]
    makers = [sys.modules.get(one.__module__) for one in held if inspect.isroutine(one) or inspect.isclass(one)]
    for maker in [module, *(maker for maker in makers if maker is not None and not is_ours(maker.__name__))]:
        source = inspect.getsourcefile(maker) if getattr(maker, "__file__", None) else None
        files |= {Path(source).resolve()} if source else set()
    digests = sorted(map(sha256_file, files))
    return digests[0] if len(digests) == 1 else sha256_json(digests) if digests else None
