"""Readers of untrusted text, JSON and YAML: plain values, or an error of one line; and hashes of records.

A file is refused if it is a pipe, not in UTF-8, or too large, nests too deeply, or repeats a key; YAML also if it
expands through aliases, or names Python types. Readers never wait for a pipe or device.

JSON files and lines of JSON that this package writes have a hash of their content, which every reader
checks. It reveals damage (a flipped bit, a cut-off copy, an edited digit) and proves nothing about the author, since
anyone can compute it. Records without a hash come from other programs and are read as they are. Tensor files have
their hashes in the header (:mod:`sida.files.tensors`).
"""

import functools
import gzip
import hashlib
import io
import json
import math
import os
import re
import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from sida.errors import UserError, errors_at
from sida.files.ordinary import read_ordinary

#: Limit of a text file in bytes; the largest files (measurements of the paper) have a few million.
MOST_TEXT_BYTES = 256 << 20
#: Limit of JSON and logs in values (counted by brackets, commas and line ends).
MOST_JSON = 4_000_000
#: Limit of a sample sheet or a registry of downloads in lines.
MOST_LINES = 100_000
#: Limit of nested mappings and lists.
MOST_LEVELS = 60

_RIGHT_FILE = "is it the right file?"
_SAVE = "save it as UTF-8 (Excel: 'CSV UTF-8'; other programs: encoding or character set UTF-8)"
# Control characters except tabs and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: Surrogates: in UTF-16 two of them stand for one character; a single one cannot be written.
_HALVES = re.compile("[\ud800-\udfff]")


def read_text(path: str | os.PathLike[str], newline: str | None = None) -> str:
    """Reads a UTF-8 file, without a byte order mark.

    Args:
        path: A regular file; one that ends in ``.gz`` is decompressed.
        newline: ``""`` keeps line ends, for :mod:`csv`; by default they become line feeds.

    Raises:
        UserError: The file is missing, not regular, too large, in another encoding (the message names it), or has
            control characters.
    """
    content = read_ordinary(path, MOST_TEXT_BYTES)
    with errors_at(path):
        if os.fspath(path).endswith(".gz"):
            content = _decompressed(content)
        text = decoded(content)
        if match := _CONTROL.search(text):
            line = text.count("\n", 0, match.start()) + 1
            raise UserError(f":{line}", f"holds a control character (0x{ord(match[0]):02x})", _SAVE)
    return text if newline == "" else text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(content: bytes) -> str:
    """UTF-8 text without its byte order mark.

    Raises:
        UserError: The bytes are not UTF-8; the place is the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f":{line}", f"is not UTF-8 text (byte 0x{content[error.start]:02x})", _SAVE) from None


def _decompressed(content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            # A bound on what is unpacked: a small file can hold a huge text.
            text = stream.read(MOST_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedError("", reason=f"not a whole gzip file ({error})") from None
    if len(text) > MOST_TEXT_BYTES:
        raise UserError("", f"holds more than {MOST_TEXT_BYTES >> 20} MiB", _RIGHT_FILE)
    return text


def parse_json(text: str | bytes, where: str) -> Any:
    """Parses JSON text to plain values.

    Raises:
        UserError: The text is not JSON or too large, repeats a key, has NaN or infinity, or nests too deeply.
    """
    check_amount(text, where)
    with errors_at(where):
        try:
            value = json.loads(text, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise UserError("", f"not valid JSON ({brief_reason(error)})") from None
        _check_values(value)
    return value


def check_amount(
    text: str | bytes, where: str, marks: str = "[{,", most: int = MOST_JSON, noun: str = "values"
) -> None:
    """Refuses a text with too many of some characters, before it is parsed.

    Args:
        text: The text.
        where: Place named in errors.
        marks: Characters that are counted.
        most: Largest number of them.
        noun: Word for the counted things, in errors.

    Raises:
        UserError: The text has more.
    """
    if sum(map(text.count, marks if isinstance(text, str) else marks.encode())) > most:  # type: ignore[arg-type]
        raise UserError(where, f"has more than {most:,} {noun}", _RIGHT_FILE)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (key := first_double([key for key, _ in pairs])) is not None:
        raise UserError("", f"key '{key}' occurs twice", "remove one of them")
    return dict(pairs)


def first_double(keys: Iterable[Hashable]) -> Any:
    """The first key that occurs twice, or None."""
    earlier: set[Hashable] = set()
    return next((key for key in keys if key in earlier or earlier.add(key)), None)  # type: ignore[func-returns-value]


def _check_values(value: Any, most: int = MOST_JSON, levels: int = MOST_LEVELS) -> int:
    """Refuses values that settings cannot have: not plain, not finite, huge integers, too many values or levels.

    Returns:
        Number of values; a value that YAML's aliases repeat counts each time.
    """
    if levels < 0:
        raise _too_deep("")
    if not isinstance(value, (dict, list)):
        _check_plain(value, "value")
        return 1
    size = 1
    # An alias is the same object again, so a short text can stand for a number of values that is exponential in it.
    for item in value:
        if isinstance(value, dict):
            _check_plain(item, "key")
        size += _check_values(value[item] if isinstance(value, dict) else item, most, levels - 1)
        if size > most:
            raise _too_many()
    return size


def _check_plain(value: Any, what: str) -> None:
    fault = ""
    if isinstance(value, str):
        fault = "" if value.isascii() or not _HALVES.search(value) else f"half of a character ({value!a})"
    elif isinstance(value, float):
        fault = "" if math.isfinite(value) else f"{value}, not a finite number"
    elif isinstance(value, int):
        fault = "an integer of too many digits" if value.bit_length() > 1024 else ""
    elif value is not None:
        fault = f"of type {type(value).__name__}"
    if fault:
        raise UserError("", f"a {what} is {fault}", "give a number or a text (quoted)")


_NUMBERS = {
    int: re.compile(r"[+-]?[0-9]{1,300}"),
    float: re.compile(r"[+-]?(?:(?:[0-9]{1,300}\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,9})?|inf|nan)", re.IGNORECASE),
}


def number_in(text: str, kind: type[int] | type[float]) -> int | float | None:
    """The number that a text states in ASCII digits; None for any other text (``1_000``, ``１``, spaces)."""
    return kind(text) if _NUMBERS[kind].fullmatch(text) else None


def brief_reason(error: object) -> str:
    """A parser's message on one line, cut to 200 characters."""
    return " ".join(str(error).split())[:200]


# Hashes of content

#: Field or column of the hash.
HASH_KEY = "content_sha256"
_REASON = "its content does not match the SHA-256 in it"


class DamagedError(UserError):
    """A file whose content is not that of its hash, or no content of its kind.

    Args:
        where: File, and line if it has lines.
        remedy: Action that fixes the damage.
        reason: Description of the damage.
    """

    REMAKE = "delete it: the command that made it makes it again"

    def __init__(self, where: object, remedy: str = REMAKE, reason: str = _REASON) -> None:
        super().__init__(where, f"damaged: {reason}", remedy)
        self.args = (where, remedy, reason)  # Unpickling calls the class with them.


def content_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's canonical JSON without the hash field; 64 hexadecimal digits."""
    values = {key: value for key, value in record.items() if key != HASH_KEY}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_hash(record: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a record to plain JSON values and adds the hash of its content."""
    values = json.loads(json.dumps(dict(record), allow_nan=False))
    return {**values, HASH_KEY: content_hash(values)}


def check_hash(record: Mapping[str, Any], where: object, remedy: str = DamagedError.REMAKE) -> dict[str, Any]:
    """Checks the hash of a record, if it has one, and returns the record without it.

    Args:
        record: JSON values by key.
        where: File named in errors.
        remedy: Action that fixes damage, for errors.

    Raises:
        DamagedError: The content does not match the hash.
    """
    values = {key: value for key, value in record.items() if key != HASH_KEY}
    try:
        if HASH_KEY in record and content_hash(values) != record[HASH_KEY]:
            raise DamagedError(where, remedy)
    except (TypeError, ValueError, RecursionError):
        raise DamagedError(where, remedy) from None
    return values


# YAML

#: Limits of YAML in characters (parsing is slow) and values, with aliases counted as the values they stand for.
MOST_YAML = 4 << 20
MOST_VALUES = 100_000


def yaml_text(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """A mapping, or a list of mappings, as the text of a YAML file, in its order."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """PyYAML's safe dumper, which puts a text in quotation marks where readers of YAML 1.1 or 1.2 need them."""

    _add_plain_values(Dumper)
    plain = dict(value) if isinstance(value, Mapping) else list(value)
    text: str = yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML to plain values.

    Raises:
        UserError: The text has a syntax error (with its line), names a Python type, repeats a key, has NaN, nests too
            deeply, or has aliases that stand for more than :data:`MOST_VALUES` values.
    """
    with errors_at(where):
        if len(text) > MOST_YAML:
            raise UserError("", f"is longer than {MOST_YAML >> 20} million characters", _RIGHT_FILE)
        value = _constructed(text)
        _check_values(value, MOST_VALUES)
    return value


#: Unquoted values that are not texts by the rules of YAML 1.2, and their first characters. 1e-4 is a number; off, yes,
#: 24:00 and 2026-01-01 are texts, which PyYAML takes for false, true, 1440 and a date.
_PLAIN_VALUES = (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", "<<", ["<"]),
)  # fmt: skip
_FAULTS = (RecursionError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


def _constructed(text: str) -> Any:
    import yaml

    try:
        _check_events(text)
        loader = _loader_class()(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, *_FAULTS) as error:
        # PyYAML's constructors fail on values that contradict their tags: `!!int x`, 5,000 digits.
        line, problem = _line(getattr(error, "problem_mark", None)), getattr(error, "problem", None) or error
        raise UserError(line, f"not valid YAML ({brief_reason(problem)})") from None


def _line(mark: Any) -> str:
    """Line of a parser's mark, such as ``:12``."""
    return f":{mark.line + 1}" if mark else ""


def _too_many() -> UserError:
    return UserError("", f"its aliases stand for more than {MOST_VALUES:,} values", "write out what is needed")


def _too_deep(line: str) -> UserError:
    return UserError(line, f"nested more than {MOST_LEVELS} levels deep")


def _check_events(text: str) -> None:
    """Refuses too many values and deep nesting before the recursive construction of nodes."""
    import yaml

    levels = values = 0
    for event in yaml.parse(text, Loader=_loader_class()):
        values += not isinstance(event, yaml.CollectionEndEvent)
        if values > MOST_VALUES:
            raise UserError("", f"holds more than {MOST_VALUES:,} values", _RIGHT_FILE)
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > MOST_LEVELS + 1:
            raise _too_deep(_line(event.start_mark))


@functools.cache
def _loader_class() -> Any:
    import yaml

    # libyaml's parser takes a tenth of the time of PyYAML's own, which serves where libyaml is missing.
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """PyYAML's safe loader, which refuses two equal keys instead of taking the last one."""

        def flatten_mapping(self, node: Any) -> None:
            """Merges ``<<`` before the mapping's own keys, which take precedence and must differ from each other."""
            # A node that others merge is flattened more than once; then it also has the keys that it merged.
            if not hasattr(node, "flat"):
                node.flat = True
                double = first_double((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                if double is not None:
                    fault = f"key '{double[1]}' occurs twice; remove one of them"
                    raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark)
            super().flatten_mapping(node)
            if len(node.value) > MOST_VALUES:
                raise _too_many()

    Loader.yaml_implicit_resolvers = {}
    return _add_plain_values(Loader)


def _add_plain_values(cls: Any) -> Any:
    for kind, expression, starts in _PLAIN_VALUES:
        cls.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^({expression})$"), starts)
    return cls
