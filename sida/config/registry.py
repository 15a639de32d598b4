"""Registries: objects of one kind by their names, and custom ones by ``module:object``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sida.config.plugins import load_file_object, load_object, our_object
from sida.config.settings import names_file_object, names_object
from sida.errors import UserError, suggestion

T = TypeVar("T")


@dataclass(frozen=True)
class RegistryEntry:
    """An object that is imported at first use, so that a start that only reads names does not import torch.

    Attributes:
        made_by: ``module:object`` of this package.
    """

    made_by: str

    def load(self) -> Any:
        """Imports the object."""
        return our_object(self.made_by)


class Registry(dict[str, T]):
    """Objects by name, in the order in which help and documents list them.

    Args:
        noun: Word for one of them, in errors and help.
        base: ``module:class`` of which a custom object is an instance or a subclass; empty: any object.
        entries: The objects of this package; an :class:`RegistryEntry` stands for the object that it imports.
        files: Whether a custom object may be named ``FILE.py:object``, too.
    """

    def __init__(self, noun: str, base: str, entries: Mapping[str, T], *, files: bool = False) -> None:
        super().__init__(entries)
        self.noun, self.base, self.files = noun, base, files

    def knows(self, name: object) -> bool:
        """Whether a name is registered or has the form of a custom object's, which is not imported."""
        return isinstance(name, str) and (name in self or self._names_custom(name))

    def _names_custom(self, name: str) -> bool:
        return names_object(name) or (self.files and names_file_object(name))

    def check(self, name: object, where: str) -> str:
        """Returns the name if it is known.

        Raises:
            UserError: It is neither registered nor the name of a custom object.
        """
        if not self.knows(name):
            form = "FILE.py:object or module:object" if self.files else "module:object"
            remedy = f"or name a custom {self.noun} as {form}"
            raise UserError(where, f"no {self.noun} '{name}'{suggestion(str(name), self)}", remedy)
        return cast(str, name)

    def find(self, name: object, where: str) -> Any:
        """Returns the object of a name; a custom object is imported with the user's permission.

        Raises:
            UserError: It does not exist, has no permission (:mod:`sida.config.plugins`), or is of another kind.
        """
        name = self.check(name, where)
        if name in self:
            found = self[name]
            return found.load() if isinstance(found, RegistryEntry) else found
        custom = load_file_object(name, where) if names_file_object(name) else load_object(name, where, self.noun)[1]
        if self.base:
            base = our_object(self.base)
            if not (isinstance(custom, base) or (isinstance(custom, type) and issubclass(custom, base))):
                known = self.base.replace(":", ".")
                raise UserError(where, f"'{name}' is no {known}", "make it an instance or a subclass of that")
        return custom
