"""Finds code from outside the package that a preset's files name, before any of it runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sida.config.lookup import ALLOW, allowed, check_bound, path_allowed, refusal, source_file
from sida.config.settings import names_object
from sida.errors import UserError
from sida.eval.claims.claim import is_shipped

#: Keys of presets, recipes, protocols and data sets, and columns of sheets, with values ``module:object``.
_KEYS = {"checkpoint", "class", "extractor", "judges", "kind", "method"}


class NotAllowedError(UserError):
    """A preset names code without the user's permission."""


def outside_code(documents: Mapping[str, Any]) -> dict[str, str]:
    """Finds names of outside code; nothing is imported.

    Args:
        documents: Contents of files by their place.

    Returns:
        ``module:object`` of the code, with the place of the first mention.
    """
    mentions: dict[str, str] = {}
    for path, document in documents.items():
        for key, value, where in texts(document, path):
            if key in _KEYS and names_object(value):
                mentions.setdefault(value, where)
    return mentions


def outside_claims(claims: str | None, source: str) -> dict[str, str]:
    """A preset's file of claims, which is code, with the key that names it; empty for a study of this package."""
    # A file of another kind is refused where it is read.
    if claims is None or Path(claims).suffix != ".py" or is_shipped(claims):
        return {}
    return {claims: f"{source}: claims"}


def origin(name: str) -> str:
    """A name with the file that it is imported from; a file by its path."""
    return f"{name} from {source_file(name)}" if names_object(name) else name


def check_code(code: Mapping[str, str], source: str) -> None:
    """Refuses a preset that names code without the user's permission.

    Args:
        code: Names and files with their places.
        source: The preset's file.

    Raises:
        NotAllowedError: There is such code; the message has the names, the files, and how to allow them.
        UserError: A module does not have the object.
    """
    refused = [name for name in code if not (allowed(name) if names_object(name) else path_allowed(name))]
    if not refused:
        for name in filter(names_object, code):
            check_bound(name, code[name])
        return
    permission = {name: name.partition(":")[0] if names_object(name) else str(Path(name).resolve()) for name in refused}
    remedy = f"read it, and if you trust it, set {ALLOW}={','.join(dict.fromkeys(permission.values()))}"
    if len(refused) > 1:
        files = ", ".join(f"'{name}' ({_file(name) or 'no such file'})" for name in refused)
        fault = f"names code from outside this package, which is not run because a file names it: {files}"
        raise NotAllowedError(source, fault, remedy)
    (name,) = refused
    if names_object(name):
        raise NotAllowedError(code[name], f"'{name}' {refusal(name)}")
    fault = f"'{name}' is code from outside this package, which is not run because a file names it"
    raise NotAllowedError(code[name], fault, remedy)


def _file(name: str) -> str | None:
    return source_file(name) if names_object(name) else name


def texts(value: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """Yields key, text and place of all texts in a document."""
    items = value.items() if isinstance(value, Mapping) else ()
    for key, item in items:
        key_path = f"{where}.{key}" if ": " in where else f"{where}: {key}"
        is_list = isinstance(item, list | tuple)
        parts = {f"{key_path}[{index}]": part for index, part in enumerate(item)} if is_list else {key_path: item}
        for path, part in parts.items():
            yield from [(str(key), part, path)] if isinstance(part, str) else texts(part, path)
