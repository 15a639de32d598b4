"""Lookup of custom objects ``module:object`` with the user's permission.

The module of a custom object is looked for in the working folder, then on Python's search path. Importing a module runs
it, and the author of a study, a spec or a network chooses the name. So a name is imported only with the user's
permission, which no file can give: the environment variable ``SIDA_ALLOW_CODE``, or the whole value of an argument that
takes an object, whose type in the parser is :func:`typed_object`. The same holds for files and folders that are code.
Functions of this package may also start programs or write files: files may name only the objects of :data:`FOR_FILES`
and the short names of registries (methods, networks, kinds, extractors).
"""

import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from sida.config.settings import names_object
from sida.errors import UserError, suggestion
from sida.files.atomic import sha256_file, sha256_json

_PACKAGE = Path(__file__).resolve().parents[1]
#: Copies of ``config`` and published results in a wheel (see ``pyproject.toml``).
_SHIPPED = _PACKAGE / "shipped"
#: Folder with ``config`` and ``results/published``: the checkout, or the copies in a wheel.
ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent
PLUGINS = _PACKAGE / "plugins"
#: Whether the package runs from a checkout, which has the workflow and ``make setup``, or from a wheel.
CHECKOUT = not _SHIPPED.is_dir()


def how_to_install(*packages: str) -> str:
    """The command that installs packages: ``make setup`` in a checkout, whose locks have all of them, else pip.

    Args:
        packages: Requirements as pip takes them, for example ``diffusers>=0.27``.
    """
    return "make setup" if CHECKOUT else "pip install " + " ".join(f"'{package}'" for package in packages)


#: Names of packages whose modules have another name.
_PACKAGE_OF = {"PIL": "pillow", "cleanfid": "clean-fid", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def missing_package(module: str) -> UserError | None:
    """The error of a module that is not installed; None if it is of no package that this one names as its need."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        package = _PACKAGE_OF.get(top := module.partition(".")[0], top).replace("_", "-")
        for requirement in metadata.requires("sida-repro") or ():
            if re.match(rf"{re.escape(package)}(?![\w.-])", requirement, re.IGNORECASE):
                fault = f"{sys.executable} does not have it"
                return UserError(f"package {package}", fault, how_to_install(requirement.partition(";")[0].strip()))
    return None


def docstring(described: Any) -> str:
    """Docstring of a class or function, which the suite shows; empty if there is none.

    Raises:
        UserError: Python runs without docstrings.
    """
    if sys.flags.optimize > 1:
        fault = "Python runs without docstrings, which have the texts of settings and claims"
        raise UserError("PYTHONOPTIMIZE", fault, "unset it, or set it to 1")
    return inspect.cleandoc(described.__doc__ or "")


#: Environment variable with the permitted modules, ``module:object`` names, and paths (with a slash), separated by
#: commas; a module or folder includes those below it, ``*`` is all.
ALLOW = "SIDA_ALLOW_CODE"
#: Objects of this package that files may name as ``module:object``, each with the dataclass that checks its arguments.
#: A package registers its own when it is imported.
FOR_FILES: dict[str, type] = {}
#: Environment variable; "no": arguments give no permission. The workflow sets it for its jobs, whose command lines come
#: from files.
TYPED = "SIDA_TYPED_CODE"
#: Environment variable; 1: exceptions of custom code are shown whole (``sida score --verbose``).
TRACE = "SIDA_TRACE"


def allowed(name: str) -> bool:
    """Whether files may name ``module:object`` (:data:`FOR_FILES`), or the user gave permission for it."""
    parts = name.partition(":")[0].split(".")
    names = {"*", name, *(".".join(parts[: count + 1]) for count in range(len(parts)))}
    return arguments_of(name) is not None or bool(_entries() & names)


def arguments_of(name: str) -> type | None:
    """Dataclass of the arguments of an object in :data:`FOR_FILES`; None for any other name."""
    if not is_ours(name):
        return None
    with contextlib.suppress(ModuleNotFoundError):
        # A package registers its objects.
        importlib.import_module(".".join(name.partition(":")[0].split(".")[:2]))
    return FOR_FILES.get(name)


def check_code_path(path: str | os.PathLike[str], kind: str, remedy: str = "") -> None:
    """Refuses a file or folder that is code, unless the user gave permission for it or a folder above it.

    Args:
        path: The file or folder.
        kind: Description of the file, for errors.
        remedy: How to give permission; by default :data:`ALLOW` with the path.

    Raises:
        UserError: The user gave no permission.
    """
    if not path_allowed(path):
        fault = f"is {kind}, which is not used without permission"
        raise UserError(path, fault, f"read it, and if you trust it, {remedy or f'set {ALLOW}={Path(path).resolve()}'}")


def path_allowed(path: str | os.PathLike[str]) -> bool:
    """Whether the user gave permission for a file or folder that is code, or for a folder above it."""
    resolved, entries = Path(path).resolve(), _entries()
    return "*" in entries or any(resolved.is_relative_to(Path(entry).resolve()) for entry in entries if "/" in entry)


def _entries() -> set[str]:
    return {entry.strip() for entry in os.environ.get(ALLOW, "").split(",")}


def typed_object(text: str) -> str:
    """Type of an argument that takes an object: its whole value, if it is not an existing path, is permission for it.

    Returns:
        The text. The permission is for this process and its child processes.
    """
    if names_object(text) and not os.path.lexists(text):
        _permit(text)
    return text


def typed_code(text: str) -> str:
    """Type of an argument that takes a file of code: its whole value is permission for the file.

    Returns:
        The text. The permission is for this process and its child processes.

    Raises:
        UserError: :data:`ALLOW` cannot hold the path.
    """
    path = str(Path(text).resolve())
    if "," in path:
        raise UserError(text, f"has a comma in its path, which separates names in {ALLOW}", "rename it")
    _permit(path)
    return text


def _permit(entry: str) -> None:
    if os.environ.get(TYPED) != "no":
        os.environ[ALLOW] = ",".join(dict.fromkeys(filter(None, [*os.environ.get(ALLOW, "").split(","), entry])))


def refusal(name: str) -> str:
    """Reason why a name is not imported, and the remedy, as text that follows the name."""
    source = source_file(name)
    lies = f" ({source})" if source else ""
    own = f"not among the objects that files may name ({', '.join(FOR_FILES) or 'none'})"
    return (
        f"is {own if is_ours(name) else 'code from outside this package'}{lies}, which is not run because a file names "
        f"it; read it, and if you trust it, set {ALLOW}={name.partition(':')[0]}"
    )


def source_file(name: str) -> str | None:
    """The file that importing ``module:object`` would run, or None; runs nothing."""
    # importlib.util.find_spec would import the parent packages.
    folders, spec = [*sys.path, str(Path.cwd())], None
    for part in name.partition(":")[0].split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def check_bound(name: str, where: str) -> None:
    """Checks by the text of its source file that a module has the object of ``module:object``; runs nothing.

    Raises:
        UserError: The file binds no such name. Modules that bind names in other ways than by statements pass.
    """
    source, attribute = source_file(name), name.partition(":")[2]
    if source is None or not source.endswith(".py"):
        return
    try:
        nodes = list(ast.walk(ast.parse(Path(source).read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return  # The import says it.
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    names = {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    names |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    if attribute not in names and not names & {"*", "__getattr__", "globals", "setattr"}:
        public = [name for name in names if name[0] != "_"]
        raise UserError(where, f"'{name}': {source} has no '{attribute}'{suggestion(attribute, public, '')}")


def is_ours(name: str) -> bool:
    """Whether ``module:object`` belongs to this package, not to a folder of the same name that came with a study."""
    if re.split("[.:]", name)[0] != "sida":
        return False
    spec = importlib.util.find_spec("sida")
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parents[1] == _PACKAGE.parent


def our_object(name: str) -> Any:
    """Imports an object of this package; ``name`` must come from the package's code, never from a file."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def load_object(name: str, where: str, kind: str = "object") -> tuple[ModuleType, Any]:
    """Imports ``module:object``.

    Args:
        name: ``module:object``, the module with dots.
        where: File and key named in errors.
        kind: Kind of the object, for errors: ``function``, ``factory``, ``method``.

    Returns:
        The module and the object.

    Raises:
        UserError: The name has another form or no permission, the module does not exist or fails, or the module has no
            such object.
    """
    if not names_object(name):
        raise UserError(where, f"must be 'module:{kind}', got '{name}'")
    if not allowed(name):
        raise UserError(where, f"'{name}' {refusal(name)}")
    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py") and Path(module_name).is_file():
        raise UserError(where, f"'{name}' names a file", f"name its module: {module_name[:-3]}:{attribute}")
    folder = str(Path.cwd())
    # The working folder comes last, and only for permitted code: a file there named as a library is not imported.
    if not is_ours(name) and folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        source = source_file(name)
        reason = f"({error}); is the module in this folder or on PYTHONPATH?"
        fault = reason if source is None else f"({own_fault(error, Path(source))}); fix it there"
        raise UserError(where, f"cannot import '{name}' {fault}") from None
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if key[0] != "_"]
        fault = f"the module has no {kind} '{attribute}'{suggestion(attribute, public, '')}"
        raise UserError(where, f"cannot import '{name}': {fault}")
    return module, getattr(module, attribute)


def own_fault(error: BaseException, source: Path | None) -> str:
    """Line and reason of an exception, ``FILE, line N: TYPE: text``; without a source file the reason alone.

    The line is the last one of the trace in the folder of the source file: an exception in a library is usually the
    fault of its caller.
    """
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if source is None:
        return reason
    lines = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        # The trace ends where the file is compiled.
        lines.append((error.filename, error.lineno or 0))
        reason = f"{type(error).__name__}: {error.msg}"
    file, line = source, 1
    for name, number in lines:
        path = Path(name).resolve()
        if path.is_file() and path.is_relative_to(source.resolve().parent) and "site-packages" not in path.parts:
            file, line = Path(name), number
    text = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    return f"{text}, line {line}: {reason}"


@contextlib.contextmanager
def foreign_faults(name: str, module: ModuleType | None, remedy: str = "fix it there") -> Iterator[None]:
    """Turns exceptions of custom code into one line with the file and line there; ``SIDA_TRACE=1`` shows the trace.

    Args:
        name: Name of the function, for the line.
        module: Module of the function.
        remedy: Remedy in the line.

    Raises:
        UserError: The code raised an exception other than errors of this package.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if os.environ.get(TRACE) == "1":
            traceback.print_exception(error)
        file = getattr(module, "__file__", None)
        fault = own_fault(error, Path(file) if file else None)
        raise UserError(name, f"fails ({fault})", f"{remedy} (--verbose shows the whole trace)") from error


def source_sha256(item: Any) -> str | None:
    """SHA-256 of the source file of a module or function, or None if there is no such file."""
    source = inspect.getsourcefile(inspect.unwrap(item))
    return sha256_file(source) if source else None


def code_sha256(module: ModuleType | None, target: Any) -> str | None:
    """SHA-256 of the source of a module and object from :func:`load_object`, or None if there are no source files.

    The digest covers the named module (a package with all its modules) and, outside this package, the modules that
    define the object or the functions and classes that it holds. For a single file it is the digest of its bytes.
    """
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    files = {file.resolve() for folder in folders for file in folder.rglob("*.py")}
    # Functions of a class are defined in the class's module, or were generated for it.
    parts = [target] if inspect.isclass(target) else [target, *getattr(target, "__dict__", {}).values()]
    modules = [sys.modules.get(part.__module__) for part in parts if inspect.isroutine(part) or inspect.isclass(part)]
    others = (other for other in modules if other is not None and not is_ours(other.__name__))
    for code in filter(None, [module, *others]):
        source = inspect.getsourcefile(code) if getattr(code, "__file__", None) else None
        files |= {Path(source).resolve()} if source else set()
    digests = sorted(map(sha256_file, files))
    if len(digests) > 1:
        return sha256_json(digests)
    return digests[0] if digests else None
