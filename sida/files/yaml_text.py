"""Reader of untrusted YAML: plain values, or an error of one line.

A text is refused if it is too large, nests too deeply, repeats a key, expands through aliases, or names Python types.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sida.errors import UserError
from sida.files.text_files import MOST_LEVELS, brief_reason, check_values, first_double

#: Limits of YAML in characters (it is read slowly) and values, with aliases counted as the values they stand for.
MOST_YAML = 4 << 20
MOST_VALUES = 100_000


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML to plain values.

    Raises:
        UserError: The text has a syntax error (with its line), names a Python type, repeats a key, has NaN, nests too
            deeply, or has aliases that stand for more than :data:`MOST_VALUES` values.
    """
    import yaml

    if len(text) > MOST_YAML:
        raise UserError(f"{where}: is longer than {MOST_YAML >> 20} million characters; is it the right file?")
    try:
        _check_events(text, where)
        loader = _loader_class()(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, where)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{where}{line}: not valid YAML ({brief_reason(problem)})") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML (nested too deeply)") from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        # PyYAML's constructors fail on values that contradict their tags: `!!int x`, 2001-99-99, 5,000 digits.
        raise UserError(f"{where}: not valid YAML (a value is not of its type: {brief_reason(error)})") from None
    check_values(value, where)
    return value


def _check_events(text: str, where: str) -> None:
    """Refuses too many values and deep nesting before the recursive construction of nodes."""
    import yaml

    levels = values = 0
    for event in yaml.parse(text, Loader=_loader_class()):
        values += not isinstance(event, yaml.CollectionEndEvent)
        if values > MOST_VALUES:
            raise UserError(f"{where}: holds more than {MOST_VALUES:,} values; is it the right file?")
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > MOST_LEVELS + 1:
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise UserError(f"{where}{line}: nested more than {MOST_LEVELS} levels deep")


@functools.cache
def _loader_class() -> Any:
    import yaml

    # libyaml's parser takes a tenth of the time of PyYAML's own, which is the fall-back.
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """PyYAML's safe loader, which refuses two equal keys instead of taking the last one."""

        def flatten_mapping(self, node: Any) -> None:
            """Merges ``<<`` before the mapping's own keys, which take precedence and must differ from each other."""
            if not hasattr(node, "flat"):
                node.flat = True
                double = first_double((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                if double is not None:
                    fault = f"key '{double[1]}' occurs twice; remove one of them"
                    raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark)
            super().flatten_mapping(node)

    # 24:00 stays a text, where YAML 1.1 reads the number 1440 (base 60): checks of types then report it.
    for kind in ("int", "float"):
        base = f"tag:yaml.org,2002:{kind}"
        Loader.add_constructor(base, _decimal(getattr(yaml.SafeLoader, f"construct_yaml_{kind}")))
    return Loader


def _decimal(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A constructor of numbers that keeps values with colons as texts."""
    return lambda loader, node: node.value if ":" in node.value else construct(loader, node)


def _count(node: Any, sizes: dict[int, int], where: str, level: int = 0) -> int:
    """Number of values of a node, with each use of an alias counted; visits each node once."""
    if id(node) in sizes:
        size = sizes[id(node)]
        if size == 0:
            raise UserError(
                f"{where}:{node.start_mark.line + 1}: an alias is inside the value it names; write the value out"
            )
        return size
    if level > MOST_LEVELS:
        raise UserError(f"{where}:{node.start_mark.line + 1}: nested more than {MOST_LEVELS} levels deep")
    sizes[id(node)] = 0
    size = 1
    if not isinstance(node.value, str):
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                size += _count(part, sizes, where, level + 1)
        if size > MOST_VALUES:
            raise UserError(
                f"{where}: its aliases stand for more than {MOST_VALUES:,} values; write out what is needed"
            )
    sizes[id(node)] = size
    return size
