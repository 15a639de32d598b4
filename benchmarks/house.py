"""Arrangement of the code: lines, imports, lengths of functions, rooms and their floors, and circles of imports.

A room is a module or sub-package directly in a package; an arrow is a pair of rooms of which one imports the other; a
floor is a layer of rooms that :data:`FLOORS` declares. Imports inside functions and for type checking count, too.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json

ROOT = Path(__file__).resolve().parents[1]

#: Folders whose Python is counted.
COUNTED = ("sida", "eval", "workflow", "studies", "benchmarks", "tests", "docs")
#: Lines of a long module, and of a function that does not fit a screen.
LONG, SCREEN = 500, 60
#: Rooms of each package by floor, the ground floor first: a room imports rooms of lower floors only.
FLOORS = {
    "sida": (
        ("errors", "late"),
        ("files", "machine", "provenance"),
        ("config",),
        ("assets", "noise"),
        ("networks",),
        ("data", "kernels"),
        ("sampling",),
        ("training",),
        ("methods",),
        ("cli",),
    ),
    "eval": (
        ("effects", "features", "frechet", "kernel_distance", "precision_recall", "statistics"),
        ("extrapolation", "inception_score", "memorisation", "results"),
        ("measuring",),
        ("figures", "tables"),
        ("claims", "scoring"),
        ("report",),
        ("commands",),
    ),
    "workflow": (
        ("archive", "cli", "preset", "snakemake_patches"),
        ("checks", "planning", "tuning"),
        ("docs", "launch", "start"),
        ("commands",),
    ),
}


@dataclass(frozen=True)
class Arrangement:
    """Rooms of a package and what is wrong with their imports.

    Attributes:
        rooms: All rooms, sorted.
        arrows: Pairs ``(importer, imported)`` of rooms.
        upward: Arrows that do not lead to a lower floor.
        undeclared: Rooms without a floor.
        circles: Groups of modules that import each other in a circle.
    """

    rooms: list[str]
    arrows: set[tuple[str, str]]
    upward: list[tuple[str, str]]
    undeclared: list[str]
    circles: list[list[str]]

    @property
    def sound(self) -> bool:
        """Whether every room has a floor, every arrow leads down, and no modules form a circle."""
        return not (self.upward or self.undeclared or self.circles)


def arrangement(package: Path, floors: Iterable[Iterable[str]]) -> Arrangement:
    """Reads a package's rooms and imports from its sources.

    Args:
        package: Folder of the package; its name is the package's.
        floors: Rooms by floor, the ground floor first.
    """
    modules = _modules(package)
    graph = {name: _targets(path, modules) - {name} for name, path in modules.items()}
    rooms = sorted({room for name in modules if (room := _room(name)) not in (None, "__main__")})
    arrows = {
        (a, b)
        for name, others in graph.items()
        for other in others
        if (a := _room(name)) and (b := _room(other)) and a != b and a != "__main__"
    }
    level = {room: number for number, floor in enumerate(floors) for room in floor}
    upward = sorted((a, b) for a, b in arrows if level.get(a, -1) <= level.get(b, -1))
    undeclared = [room for room in rooms if room not in level]
    return Arrangement(rooms, arrows, upward, undeclared, _circles(graph))


def _modules(package: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def _targets(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """Modules of the package that a file imports: of ``from a.b import c``, ``a.b.c`` where it is one, else ``a.b``."""
    candidates = [(name, name.rpartition(".")[0]) for name in imports(path)]
    return {name if name in modules else parent for name, parent in candidates if name in modules or parent in modules}


def imports(path: Path) -> list[str]:
    """Dotted names of the modules, or of names in them, that a file imports anywhere."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of two or more modules that reach each other."""
    reached = {name: _reached(name, graph) for name in graph}
    groups = {
        tuple(sorted({name} | {other for other in reached[name] if name in reached[other]}))
        for name in graph
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reached(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


@dataclass(frozen=True)
class Size:
    """Lines of a module: all, those of code (no blank lines, comments, docstrings), of imports, and by function."""

    lines: int
    code: int
    imports: int
    functions: list[int]

    @classmethod
    def of(cls, path: Path) -> Size:
        """Measures a file."""
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if path.suffix != ".py":
            return cls(len(lines), sum(_is_code(line) for line in lines), 0, [])
        nodes = list(ast.walk(ast.parse(text)))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        described = [node for node in nodes if isinstance(node, ast.Module | ast.ClassDef) or node in functions]
        docstrings = {
            number for node in described if ast.get_docstring(node, clean=False) for number in _span(node.body[0])
        }
        return cls(
            len(lines),
            sum(_is_code(line) for number, line in enumerate(lines, 1) if number not in docstrings),
            sum(len(_span(node)) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)),
            [len(_span(node)) for node in functions],
        )


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("#")


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def main(out: Path) -> bool:
    """Prints and writes the counts of this checkout; whether all packages are sound."""
    report: dict[str, Any] = {"sizes": {}, "long": {}, "rooms": {}}
    for name in COUNTED:
        paths = sorted(path for suffix in ("py", "smk") for path in (ROOT / name).rglob(f"*.{suffix}"))
        sizes = {str(path.relative_to(ROOT)): Size.of(path) for path in paths}
        report["sizes"][name] = found = _summary(list(sizes.values()))
        if name != "tests":
            report["long"] |= {path: size.lines for path, size in sizes.items() if size.lines > LONG}
        print(
            f"{name:<11}{found['modules']:>4} modules {found['lines']:>7,} lines {found['code']:>7,} of code, "
            f"{found['import_share']:.1%} imports; functions: median {found['function_median']:g}, longest "
            f"{found['function_longest']}, {found['function_long']} longer than {SCREEN}"
        )
    for path, lines in report["long"].items():
        print(f"longer than {LONG}: {path} ({lines})")
    sound = True
    for name, floors in FLOORS.items():
        rooms = arrangement(ROOT / name, floors)
        sound &= rooms.sound
        report["rooms"][name] = {"rooms": len(rooms.rooms), "arrows": len(rooms.arrows), "floors": len(floors)}
        print(f"{name}: {len(rooms.rooms)} rooms on {len(floors)} floors, {len(rooms.arrows)} arrows")
        for fault in (*rooms.undeclared, *rooms.upward, *rooms.circles):
            print(f"    wrong: {fault}")
    write_json(out, report)
    return sound


def _summary(sizes: list[Size]) -> dict[str, float]:
    """Counts of a folder's modules; the share of imports is of all lines."""
    functions = [length for size in sizes for length in size.functions]
    code = sum(size.code for size in sizes)
    return {
        "modules": len(sizes),
        "lines": sum(size.lines for size in sizes),
        "code": code,
        "import_share": sum(size.imports for size in sizes) / sum(size.lines for size in sizes),
        "function_median": statistics.median(functions),
        "function_longest": max(functions),
        "function_long": sum(length > SCREEN for length in functions),
    }
