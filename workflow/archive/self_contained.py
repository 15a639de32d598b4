"""One Python file that draws a network's images with torch and safetensors alone, made of this package's sources."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.networks.build import NETWORKS
from sida.networks.options import check_options
from sida.networks.precond import Precond
from sida.runtime.provenance import code_version
from sida.sampling.samplers import one_step, to_uint8

#: Modules that stay behind, and the names by which the file does without them: its settings are checked here.
_LEFT_OUT = {
    "sida.config.mapping": "def from_mapping(cls: type, mapping: Mapping[str, Any], where: str) -> Any:\n"
    "    return cls(**mapping)",
}
_TAIL = Path(__file__).parent / "hub" / "model_tail.py"


def model_source(network: Mapping[str, Any]) -> str | None:
    """Text of ``model.py``: the modules behind a network class in the order of their imports, then the sampler.

    Args:
        network: ``{"class", "kwargs"}`` of a network file.

    Returns:
        The text; None for a custom class, whose code is not this package's.

    Raises:
        UserError: Arguments that the class does not take.
    """
    cls = NETWORKS.get(str(network["class"]))
    if cls is None or not issubclass(cls, Precond):
        return None
    options = dict(network["kwargs"])
    half = options.pop("half_dtype", None)
    options, inner = cls.read_options(options, "network")
    arguments = check_options(cls, options, "network", extra=inner)
    order: list[str] = []
    _visit(cls.__module__, order)
    tail = _TAIL.read_text(encoding="utf-8")
    trees = {name: _source(name) for name in order if name not in _LEFT_OUT}
    imports = _imports([*trees.values(), tail])
    parts = [f"# {'-' * 20} {name}\n\n{_LEFT_OUT.get(name) or _body(trees[name])}" for name in order]
    head = (
        f'"""{network["class"]}, a one-step generator, with everything that it needs from sida-repro {code_version()} '
        '(Apache-2.0).\n\nMade by `sida export`; needs torch and safetensors alone.\n"""\n\n'
    )
    text = f"{head}from __future__ import annotations\n\n{imports}\n\n"
    made = "\n\n".join(inspect.getsource(function) for function in (one_step, to_uint8)) + "\n\n"
    made += f"def build() -> Precond:\n    net = {cls.__name__}({_arguments(arguments)})\n"
    made += f"    net.half_dtype = torch.{half}\n" if half else ""
    made += "    return net"
    return text + "\n\n\n".join([*parts, f"# {'-' * 20} this network\n\n\n{made}", _body(tail)]) + "\n"


def _visit(name: str, order: list[str]) -> None:
    """Adds a module behind the modules of this package that it imports."""
    if name in order:
        return
    if name not in _LEFT_OUT:
        for node in ast.walk(ast.parse(_source(name))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sida"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    _visit(inner if _is_module(inner) else str(node.module), order)
    order.append(name)


def _is_module(name: str) -> bool:
    package, _, last = name.rpartition(".")
    home = importlib.import_module(package)
    return inspect.ismodule(getattr(home, last, None)) and not hasattr(home, "__getattr__")


def _source(name: str) -> str:
    return inspect.getsource(importlib.import_module(name))


def _imports(texts: Iterable[str]) -> str:
    """Import statements of modules for other packages, each name once."""
    plain: set[str] = set()
    named: dict[str, set[str]] = {}
    for node in (node for text in texts for node in ast.parse(text).body):
        if isinstance(node, ast.Import):
            plain |= {ast.unparse(node)}
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith(("sida", "__future__")):
            named.setdefault(str(node.module), set()).update(ast.unparse(alias) for alias in node.names)
    return "\n".join(
        [*sorted(plain), *(f"from {name} import {', '.join(sorted(named[name]))}" for name in sorted(named))]
    )


def _body(text: str) -> str:
    """A module without its docstring and its imports.

    Raises:
        UserError: An import inside a function, which would not find this package.
    """
    tree, lines = ast.parse(text), text.splitlines()
    for node in tree.body:
        docstring = node is tree.body[0] and isinstance(node, ast.Expr)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (int(node.end_lineno or 0) - node.lineno + 1)
    rest = "\n".join(lines).strip()
    if "from sida" in rest or "import sida" in rest:
        raise UserError("model.py: a module of sida/networks imports this package inside a function; import it above")
    return rest


def _arguments(values: Mapping[str, Any]) -> str:
    """Python text of keyword arguments with plain values; infinity, too."""
    return ", ".join(f"{k}=" + ('float("inf")' if v == float("inf") else repr(v)) for k, v in values.items())
