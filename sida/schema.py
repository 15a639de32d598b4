"""JSON-schema validation with defaults filled in and faults told in one line."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.config import load_yaml
from sida.errors import UserError, suggestion


@functools.cache
def _validator(path: Path) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(load_yaml(path))


def validated(value: Mapping[str, Any], schema: str | Path, where: str) -> dict[str, Any]:
    """Returns a deep copy of ``value`` with the schema's defaults filled in.

    Args:
        value: The document, e.g. a preset.
        schema: Path of a JSON schema (draft 2020-12) written as YAML.
        where: File (and row) named in errors.

    Raises:
        UserError: The first violation as ``<where>: <key>: <what is wrong>``.
    """
    import jsonschema

    validator = _validator(Path(schema))
    document = copy.deepcopy(dict(value))
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise UserError(f"{where}: {_explain(error)}")
    _fill_defaults(document, validator.schema, validator.schema)
    return document


def _explain(error: Any) -> str:
    """One line for a jsonschema error: the key's path and what to change."""
    path = ".".join(str(part) for part in error.absolute_path)
    place = f"{path}: " if path else ""
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = list(error.schema.get("properties", {}))
        unknown = next((key for key in error.instance if key not in known), "?")
        return f"unknown key '{path + '.' if path else ''}{unknown}'{suggestion(str(unknown), known)}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{place}key '{missing}' is missing; add it"
    if error.validator == "type":
        wanted = error.validator_value
        names = " or ".join(wanted) if isinstance(wanted, list) else wanted
        return f"{place}must be of type {names}, got {error.instance!r}"
    if error.validator in ("enum", "anyOf"):
        options = error.validator_value if error.validator == "enum" else _alternatives(error.validator_value)
        return f"{place}must be one of {', '.join(map(str, options))}, got {error.instance!r}"
    if error.validator == "minimum":
        return f"{place}must be at least {error.validator_value}, got {error.instance!r}"
    if error.validator == "exclusiveMinimum":
        return f"{place}must be greater than {error.validator_value}, got {error.instance!r}"
    if error.validator == "maximum":
        return f"{place}must be at most {error.validator_value}, got {error.instance!r}"
    if error.validator == "oneOf":
        options = [" and ".join(option.get("required", [])) for option in error.validator_value]
        return f"{place}needs either {' or '.join(options)}, not both"
    return f"{place}{error.message.splitlines()[0]}"


def _alternatives(schemas: list[Mapping[str, Any]]) -> list[str]:
    """What a value may be: names, and the titles of forms."""
    return [option for schema in schemas for option in schema.get("enum", [schema.get("title")])]


def _fill_defaults(document: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    """Adds missing defaults, also inside ``additionalProperties`` and local references."""
    reference = schema.get("$ref")
    if reference:
        node: Any = root
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    if not isinstance(document, dict):
        return
    properties = schema.get("properties", {})
    for key, inner in properties.items():
        if key not in document and "default" in inner:
            document[key] = copy.deepcopy(inner["default"])
    for key, item in document.items():
        inner = properties.get(key, schema.get("additionalProperties"))
        if isinstance(inner, Mapping):
            _fill_defaults(item, inner, root)
