"""Folders and links of an archive, which have no content; read in a fenced child process."""

from __future__ import annotations

import array
import bisect
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from sida.errors import UserError

#: Links that a path may lead through, as in Linux; more are a circle.
_MOST_LINKS = 40


class Tree(NamedTuple):
    """Members of an archive that have no bytes of their own.

    Attributes:
        folders: Names of folders.
        links: Path in the archive to which a link leads, by its name; None if it leads out of the archive.
    """

    folders: list[str]
    links: dict[str, str | None]

    def link(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target.replace("\\", "/")))
        self.links[name] = None if path.startswith(("/", "..")) else path

    def linked(self, names: list[str], flat: array.array[int]) -> Iterator[tuple[str, int, int, int, int, int]]:
        """Yields each link with the location of its file, and files below a link to a hidden folder.

        Args:
            names: Names of the files; complete when the first item is requested.
            flat: Their locations, five numbers each.

        Raises:
            UserError: A link leads to no file, or to a folder whose files are listed themselves.
        """
        if not self.links:
            return
        assert len(flat) == 5 * len(names)
        index = {posixpath.normpath(name): number for number, name in enumerate(names)}
        ordered, dead = sorted(index), []
        for name in self.links:
            target = self._target(name)
            below = [] if target is None or target in index else under(ordered, target)
            # Files of hidden folders are left out, so that a link to one is the only way to them.
            if below and not any(part.startswith(".") for part in str(target).split("/")):
                fault = f"is a link to {target}, whose {len(below):,} files would count twice"
                raise UserError(f": {name}", fault, "pack the archive without one of both")
            if target in index:
                below = [str(target)]
            if not below and not posixpath.basename(name).startswith("."):
                dead.append(name)
            for path in below:
                start = 5 * index[path]
                yield (name + path.removeprefix(str(target)), *flat[start : start + 5])  # type: ignore[misc]
        if dead:
            fault = f"is a link to no file in the archive ({len(dead):,} of {len(self.links):,} links)"
            raise UserError(f": {dead[0]}", fault, "pack the files themselves (tar --dereference, zip without -y)")

    def _target(self, name: str) -> str | None:
        """Path to which a link leads, also through other links; None if it leads out of the archive or in a circle."""
        path: str | None = name
        for _ in range(_MOST_LINKS):
            parts = str(path).split("/")
            parents = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            if (link := next((parent for parent in parents if parent in self.links), None)) is None:
                return path
            if (target := self.links[link]) is None:
                return None
            path = posixpath.normpath(target + str(path).removeprefix(link))
        return None


def under(names: list[str], folder: str) -> list[str]:
    """Returns the names below a folder, of sorted names."""
    # "0" is the character after "/".
    return names[bisect.bisect_left(names, f"{folder}/") : bisect.bisect_left(names, f"{folder}0")]
