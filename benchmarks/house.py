"""How the code is arranged: lines, long modules, and who imports whom among the rooms of a package.

A room is a module or sub-package directly in a package; an arrow is a pair of rooms of which one imports the other,
wherever in its files the import stands (but not for types alone); a floor is a layer of that graph: the ground floor
imports no other room.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json

ROOT = Path(__file__).resolve().parents[1]

#: Folders whose Python is counted.
COUNTED = ("sida", "eval", "workflow", "benchmarks", "tests", "docs")
LONG = 300
#: At most so many rooms, floors and arrows in ``eval``, and no circle.
AIMS = (20, 7, 35)


@dataclass(frozen=True)
class Rooms:
    """The rooms of a package.

    Attributes:
        names: All rooms, sorted.
        arrows: Pairs ``(importer, imported)``.
        floors: Rooms by floor, the ground floor first; None where rooms import each other in a circle.
    """

    names: list[str]
    arrows: set[tuple[str, str]]
    floors: list[list[str]] | None


def rooms(package: Path) -> Rooms:
    """Reads the rooms of a package from its sources.

    Args:
        package: Its folder; the folder's name is the package's.
    """
    files = [path for path in sorted(package.rglob("*.py")) if path != package / "__init__.py"]
    names = sorted({_room(path, package) for path in files})
    arrows = {
        (_room(path, package), other)
        for path in files
        for module in imports(path)
        if module.startswith(f"{package.name}.")
        and (other := module.split(".")[1]) in names
        and other != _room(path, package)
    }
    return Rooms(names, arrows, _floors(names, arrows))


def _room(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Dotted names of the modules (or of names in them) that a file imports when it runs, wherever in it."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unused = {id(inner) for node in types for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _floors(names: list[str], arrows: set[tuple[str, str]]) -> list[list[str]] | None:
    floors: list[list[str]] = []
    left = set(names)
    while left:
        ground = {room for room in left if not any(a == room and b in left for a, b in arrows)}
        if not ground:
            return None
        floors.append(sorted(ground))
        left -= ground
    return floors


def main(out: Path) -> bool:
    """Prints and writes the counts of this checkout; whether ``eval`` keeps its aims."""
    report: dict[str, Any] = {"lines": {}, "long": {}, "rooms": {}}
    for name in COUNTED:
        files = sorted(path for suffix in ("py", "smk") for path in (ROOT / name).rglob(f"*.{suffix}"))
        sizes = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
        report["lines"][name] = {"modules": len(sizes), "lines": sum(sizes.values())}
        if name != "tests":
            report["long"] |= {path: lines for path, lines in sizes.items() if lines > LONG}
        print(f"{name:<11}{len(sizes):>4} modules {sum(sizes.values()):>7,} lines")
    for path, lines in report["long"].items():
        print(f"longer than {LONG}: {path} ({lines})")
    for name in ("sida", "eval"):
        found = rooms(ROOT / name)
        report["rooms"][name] = {"rooms": len(found.names), "arrows": len(found.arrows), "floors": found.floors}
        floors = "in a circle" if found.floors is None else f"on {len(found.floors)} floors"
        print(f"{name}: {len(found.names)} rooms {floors}, {len(found.arrows)} arrows")
        for number, floor in enumerate(found.floors or []):
            print(f"    {number}  {', '.join(floor)}")
    write_json(out, report)
    return kept(rooms(ROOT / "eval"))


def kept(found: Rooms) -> bool:
    """Whether a package's rooms keep the aims."""
    most_rooms, most_floors, most_arrows = AIMS
    floors = found.floors
    return floors is not None and (
        len(found.names) <= most_rooms and len(floors) <= most_floors and len(found.arrows) <= most_arrows
    )
