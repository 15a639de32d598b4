"""Readers of foreign weights and arrays for the child process: what they find becomes arrays of one file of ours.

Pickles and files of ``torch.save`` are read by an allow-list (:mod:`sida.files.unpickler`); beside them safetensors,
npz, npy and MNIST's format (idx), also packed by gzip.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import math
import struct
import tokenize  # noqa: F401 - numpy needs it for headers that Python 2 wrote, and cannot import it later
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedReader, BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from sida.errors import UserError, suggestion
from sida.files.child import KINDS, Writer, is_shape
from sida.files.content import holds_tensors
from sida.files.unpickler import AGAIN, METHOD, REBUILD, Inert, Unpickler, View, kind_of_value, read_value

#: Remedy for weights without an architecture of this package.
FOREIGN_WEIGHTS = (
    "name the architecture (sida convert FILE OUT.safetensors --network config.json; of SiT, REPA and DiT the class "
    "alone, --network-class), or draw the images by a Python function (docs/score.md, 'A function')"
)
_SAVED_WHOLE = (
    f"save its weights (torch.save(net.state_dict(), FILE)), then {FOREIGN_WEIGHTS}; or save it by torch.export"
)
_OTHER = "not a network of EDM, EDM2, SiD, SiDA or GDD"
#: Entries of a checkpoint with the arguments of its training, and the largest number of arguments.
_ARGUMENTS = ("args", "config", "cfg", "hparams", "hyper_parameters", "model_args", "model_config")
_MOST_ARGUMENTS = 1000


# Weights


def weights(stream: BinaryIO, out: Writer, key: str | None, size: int, data: bool) -> dict[str, Any]:
    """The file's dictionary of tensors, or the entry to which ``key`` begins to lead.

    Args:
        stream: A pickle, or a file of ``torch.save``.
        out: Receives the tensors of floating point, float32.
        key: Names of entries, joined by dots.
        size: Bytes of the file, which its tensors cannot exceed.
        data: Whether to write the tensors.

    Returns:
        ``tensors`` (name and shape of each, in the file's order), ``kinds`` of those that are not of floating point,
        the rest of the key as ``prefix``, and the plain ``arguments`` of the training beside the weights. Values that
        are not tensors are left out.
    """
    content = read_value(stream)
    value, prefix = _find_entry(content, key)
    for name, entry in value.items() if isinstance(value, dict) else ():
        if isinstance(entry, Inert) and REBUILD in (made_by := type(entry).__name__):
            fault = f"'{name!s:.80}' is a tensor of a kind that is not read ({made_by:.80})"
            raise UserError("", fault, "save it as an ordinary tensor of floats")
    if not _is_weights(value):
        counts = {name: sum(map(_is_view, entry.values())) for name, entry in _weights_in(content)}
        entries = [f"{name} ({count} tensor{'s' if count > 1 else ''})" for name, count in counts.items()]
        nameless = [f"{name} ({len(entry)})" for name, entry in _lists_in(content)]
        if nameless:  # of averaged weights, which are better than the named ones beside them
            others = f"; weights with names: {', '.join(entries[:8])}" if entries else ""
            remedy = "save them with names (ema.copy_to(net.parameters()), then torch.save(net.state_dict(), FILE))"
            remedy += ", or name another entry with --key" if entries else ""
            raise UserError("", f"holds tensors without names: {', '.join(nameless[:8])}{others}", remedy)
        if entries:
            raise UserError("", f"holds weights in entries: {', '.join(entries[:8])}", "name one with --key")
        kind = "" if isinstance(value, dict) else f", but {kind_of_value(value)}"
        remedy = "save its weights (torch.save(net.state_dict(), FILE))"
        raise UserError("", f"holds no dictionary of tensors{kind}", remedy)
    views = {name: view for name, view in value.items() if _is_view(view)}
    return {**_written(views, out, size, data), "prefix": prefix, "arguments": _arguments(content)}


def network(stream: BinaryIO, out: Writer, key: str, size: int, data: bool) -> dict[str, Any]:
    """A pickled network, the value itself or its entry ``key``; arguments as :func:`weights`.

    Returns:
        ``class``, ``source_sha256`` of its source text, ``args`` and ``kwargs`` of its constructor, ``tensors`` and
        ``kinds`` of its parameters and persistent buffers, the ``entries`` of the file, and the names that became
        ``inert`` objects. ``hook`` is for layers with a hook before their pass: "own" if it is a method of the layer
        itself; else, of a detached copy, whether a copy is in training mode. It is None without such hooks.
    """
    value = read_value(stream)
    network = _network(value, key)
    hook: Any = None
    views: dict[str, View] = {}
    for prefix, state in _modules(network):
        # A state dict leaves these buffers out.
        transient = state.get("_non_persistent_buffers_set")
        transient = transient if isinstance(transient, (set, frozenset)) else ()
        for group, left_out in (("_parameters", ()), ("_buffers", transient)):
            for name, view in _group(state, group).items():
                if view is None or name in left_out:
                    continue
                if not isinstance(view, View):
                    raise UserError("", f"'{prefix}{name}' is not a tensor", "the file is damaged or foreign")
                views[f"{prefix}{name}"] = view
        for method in _group(state, "_forward_pre_hooks").values():
            bound = isinstance(method, Inert) and type(method).__name__.startswith(METHOD)
            target = getattr(method.args[0], "state", None) if bound else None
            if isinstance(target, dict) and hook != "own":
                hook = "own" if target is state else bool(hook) or target.get("training") is True
    if not views:
        raise UserError("", "the network has no tensors", _OTHER)
    args, kwargs = network.state.get("_init_args", ()), network.state.get("_init_kwargs")
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise UserError("", f"{type(network).__name__} does not record its constructor arguments", "not loadable")
    source = (network.source or "").encode("utf-8", "surrogatepass")
    return {
        "class": type(network).__name__, "source_sha256": hashlib.sha256(source).hexdigest(), "hook": hook,
        "args": _plain(args), "kwargs": _plain(kwargs), **_written(views, out, size, data),
        "entries": [str(name) for name in itertools.islice(value, 100)] if isinstance(value, dict) else [],
        "inert": sorted(Unpickler.inert)[:100],
    }  # fmt: skip


def _written(views: Mapping[str, View], out: Writer, size: int, data: bool) -> dict[str, Any]:
    """Writes tensors; their names and shapes, and kinds that are not of floating point."""
    for name, view in views.items():
        if not is_shape(view.shape):
            raise UserError("", f"damaged: tensor '{name:.80}' has an impossible shape", AGAIN)
    # A view can claim one element many times.
    if (claimed := sum(math.prod(view.shape) for view in views.values())) > size:
        fault = f"refused: its tensors claim {claimed:,} elements, the file has {size:,} bytes"
        raise UserError("", fault, AGAIN)
    kinds = {name: view.storage.kind for name, view in views.items() if not view.is_float}
    for name, view in views.items() if data else ():
        if name not in kinds:
            out.add(name, view.numbers().astype(np.float32))
    return {"tensors": [[name, view.shape] for name, view in views.items()], "kinds": kinds}


def _is_view(value: Any) -> bool:
    return isinstance(value, View)


def _find_entry(value: Any, key: str | None) -> tuple[Any, str]:
    """Entry of nested dictionaries to which a key leads, whose parts are joined by dots; the value itself without one.

    The second value is the end of the key that leads to no entry, such as a prefix of names in it.
    """
    entry, rest = value, key.split(".") if key else []
    while rest and isinstance(entry, dict):
        # Names of entries may have dots.
        names = [".".join(rest[:count]) for count in range(len(rest), 0, -1)]
        if (name := next((name for name in names if isinstance(entry.get(name), dict)), None)) is None:
            break
        entry, rest = entry[name], rest[name.count(".") + 1 :]
    return entry, ".".join(rest)


def _is_weights(value: Any, levels: int = 3) -> bool:
    """Whether a value is a dictionary of tensors by name; anything but weights may be among them."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    return any(_is_view(entry) for entry in value.values()) and not any(_weights_in(value, levels))


def _weights_in(value: Any, levels: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the dictionaries of tensors below a dictionary, with the keys that lead there, joined by dots."""
    # Checkpoints have a few entries a level; the bounds end the search in a file made to prolong it.
    for name, entry in itertools.islice(value.items(), 100) if isinstance(value, dict) and levels else ():
        if _is_weights(entry, levels - 1):
            yield f"{name!s:.60}", entry
        else:
            yield from ((f"{name!s:.60}.{below}", weights) for below, weights in _weights_in(entry, levels - 1))


def _lists_in(value: Any, levels: int = 3) -> Iterator[tuple[str, list[Any]]]:
    """Yields the lists of tensors below a dictionary, with the keys that lead there, joined by dots."""
    for name, entry in itertools.islice(value.items(), 100) if isinstance(value, dict) and levels else ():
        if isinstance(entry, list) and entry and all(map(_is_view, entry)):
            yield f"{name!s:.60}", entry
        yield from ((f"{name!s:.60}.{below}", tensors) for below, tensors in _lists_in(entry, levels - 1))


def _plain(value: Any) -> Any:
    """Converts a value of a pickle to JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return value.tolist()
    raise UserError("", f"holds {kind_of_value(value)}, where only plain values may be", "no published file needs it")


def _arguments(content: Any) -> dict[str, Any] | None:
    """Plain arguments of a training by their own names, also of nested groups; names with two values are left out.

    None if the content has no entry of arguments.
    """
    waiting = [content[name] for name in _ARGUMENTS if name in content] if isinstance(content, dict) else []
    if not waiting:
        return None
    arguments: dict[str, set[Any]] = {}
    groups = set[int]()  # they may hold each other
    while waiting and len(groups) < _MOST_ARGUMENTS:
        group = waiting.pop()
        group = group.state if isinstance(group, Inert) else group
        if id(group) in groups:
            continue
        groups.add(id(group))
        for name, value in itertools.islice(group.items(), _MOST_ARGUMENTS) if isinstance(group, dict) else ():
            if isinstance(value, (dict, Inert)):
                waiting.append(value)
            elif isinstance(name, str) and (value is None or type(value) in (bool, float, str) or _is_small(value)):
                arguments.setdefault(name[:80], set()).add(value[:200] if isinstance(value, str) else value)
    single = {name: next(iter(values)) for name, values in arguments.items() if len(values) == 1}
    return dict(itertools.islice(single.items(), _MOST_ARGUMENTS))


def _is_small(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 62


def _network(value: Any, key: str) -> Inert:
    """The network: the value itself or its entry ``key``."""
    if isinstance(value, dict) and key in value:
        value = value[key]
    elif isinstance(value, dict) and not any(isinstance(entry, View) for entry in value.values()):
        keys = [str(name)[:40] for name in itertools.islice(value, 100)]
        remedy = "name the network's: sida convert FILE OUT.safetensors --key ENTRY"
        raise UserError("", f"has no entry '{key}'{suggestion(key, keys)}", remedy)
    if isinstance(value, Inert) and value.source is not None:
        return value
    tensors = sum(isinstance(entry, View) for entry in value.values()) if isinstance(value, dict) else 0
    if tensors:
        raise UserError("", f"holds weights alone ({tensors:,} tensors), not a network with its class", FOREIGN_WEIGHTS)
    raise UserError("", f"holds {kind_of_value(value)}, not a network with its class", _SAVED_WHOLE)


def _modules(module: Any, prefix: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Prefix of names and state of a module and of all modules below it, in the order of a state dict."""
    if not isinstance(module, Inert) or not isinstance(module.state, dict):
        raise UserError("", f"'{prefix.removesuffix('.')}' is not a module", _OTHER)
    yield prefix, module.state
    for name, child in _group(module.state, "_modules").items():
        if child is not None:
            yield from _modules(child, f"{prefix}{name}.")


def _group(state: dict[Any, Any], group: str) -> Mapping[Any, Any]:
    """One of a module's dictionaries."""
    value = state.get(group, {})
    if not isinstance(value, dict):
        raise UserError("", f"its {group} is not a mapping", "the file is damaged or foreign")
    return value


# Arrays

_TYPES = {name: np.dtype(kind) for kind, name in KINDS.items()}
_LONGEST_HEADER, _PIECE = 16 << 20, 16 << 20
_NUMBERS = (bool, int, float, np.generic)


class _Array(NamedTuple):
    """An array of numbers, and the function that yields its elements in the order of C."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Callable[[], Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def arrays(stream: BufferedReader, out: Writer, wanted: str | None, size: int, most: int) -> dict[str, Any]:
    """The arrays of numbers in a file.

    Their names lead to them: ``fid.mu`` is entry ``mu`` of entry ``fid``. Lists of images are one array, and the
    columns of a list of pairs are ``arr_0`` and ``arr_1``, as numpy names unnamed arrays. A single array has an empty
    name.

    Args:
        stream: A pickle, a file of ``torch.save``, safetensors, npz, npy or idx.
        out: Receives the wanted array; without one all, if they have at most ``most`` bytes together.
        wanted: Name of an array.
        size: Bytes of the file.
        most: Bytes.

    Returns:
        ``numbers``: shape and type of each array; ``unread``: fault of each other value.
    """
    found: dict[str, _Array] = {}
    unread: dict[str, str] = {}
    of_tensors = holds_tensors(stream.peek(512)[:512])
    for name, opened in _of_tensors(stream) if of_tensors else _of_numpy(stream, size):
        if name in found or name in unread:
            raise UserError(f": array '{name}'", "occurs twice", "make the file again")
        try:
            found[name] = opened()
        except UserError as error:
            if not name and not of_tensors:
                raise
            unread[name] = error.fault
    # A tensor can claim one element many times.
    claimed = sum(math.prod(array.shape) for array in found.values())
    if of_tensors and claimed > size:
        raise UserError("", f"its tensors claim {claimed:,} elements in {size:,} bytes", "make it again")
    small = sum(array.nbytes for array in found.values()) <= most
    for name, array in found.items():
        if name == wanted or (wanted is None and small):
            kind = array.dtype.newbyteorder("<")
            parts = (np.ascontiguousarray(part, kind).reshape(-1).view(np.uint8) for part in array.parts())
            out.stream(name, (part.data for part in parts if part.size), kind, array.shape)
    numbers = {name: [array.shape, array.dtype.newbyteorder("<").str] for name, array in found.items()}
    return {"numbers": numbers, "unread": unread}


def _of_tensors(file: BufferedReader) -> Iterator[tuple[str, Callable[[], _Array]]]:
    """Names and openers of values in a pickle, a file of torch.save or safetensors."""
    is_safetensors = file.peek(10)[8:10] == b'{"'
    for name, value in _named(_safetensors(file) if is_safetensors else read_value(file), ""):
        if name or _is_list(value) or _is_array(value):  # a single object may be a network
            yield name, functools.partial(_joined, value)


def _safetensors(file: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise UserError("", "not a safetensors file (impossible header length)", "make it again")
    facts = json.loads(file.read(length))
    facts.pop("__metadata__", None)
    slices = {}
    for name, entry in facts.items():
        begin, kind = 8 + length + entry["data_offsets"][0], _TYPES.get(entry["dtype"])
        slices[name] = _Slice(file, begin, tuple(entry["shape"]), kind) if kind else entry["dtype"]
    return slices


class _Slice(NamedTuple):
    """An array in safetensors."""

    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def numbers(self) -> np.ndarray:
        self.file.seek(self.offset)
        content = self.file.read(math.prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape)


def _named(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Names of the values that are not mappings; an empty name for a single one."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.tolist()
    if _is_list(value):
        value = _columns(value)
    if not isinstance(value, dict):
        yield prefix.removesuffix("."), value
        return
    for name, item in value.items():
        yield from _named(item, f"{prefix}{name}.")


def _columns(rows: Any) -> Any:
    """Columns by name of a list of mappings or pairs, or of images and classes; any other list as it is."""
    if rows and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return {name: [row[name] for row in rows] for name in rows[0]}
    if rows and all(_is_list(row) and len(row) == 2 for row in rows):
        rows = [list(column) for column in zip(*rows)]
    elif len(rows) != 2 or not all(map(_is_array, rows)) or len(rows[0].shape) == len(rows[1].shape):
        return rows
    return {f"arr_{index}": column for index, column in enumerate(rows)}


def _is_list(value: Any) -> bool:
    # Tensors are named tuples here.
    return type(value) in (list, tuple)


def _is_array(value: Any) -> bool:
    return isinstance(value, (View, _Slice, np.ndarray))


def _tail(array: Any) -> tuple[int, ...]:
    """Sizes in which the arrays of a list are alike; batches of images may differ in their number."""
    return tuple(array.shape[1:]) if len(array.shape) > 3 else (-1, *array.shape)


def _joined(value: Any) -> _Array:
    """A value as one array; the arrays of a list follow one another.

    Raises:
        UserError: The value is not an array of numbers, nor a list of such arrays that are alike.
    """
    is_list = _is_list(value)
    if (is_list and value and all(isinstance(item, _NUMBERS) for item in value)) or isinstance(value, _NUMBERS):
        value, is_list = np.asarray(value), False
    parts = [*value] if is_list else [value]
    if not parts or not all(map(_is_array, parts)):
        raise UserError("", "it is not an array of numbers")
    if any(part.dtype.kind not in "biuf" or not is_shape(part.shape) for part in parts):
        raise UserError("", "its array does not hold plain numbers")
    if len({(_tail(part), part.dtype) for part in parts}) > 1:
        raise UserError("", "its arrays differ in size or type")
    shape = tuple(parts[0].shape)
    if is_list:
        shape = (sum(part.shape[0] for part in parts), *shape[1:]) if len(shape) > 3 else (len(parts), *shape)
    return _Array(shape, parts[0].dtype, lambda: (p if isinstance(p, np.ndarray) else p.numbers() for p in parts))


def _of_numpy(file: BufferedReader, size: int) -> Iterator[tuple[str, Callable[[], _Array]]]:
    """Names and openers of the arrays in an npz, npy or idx file, which gzip may pack."""
    start = file.peek(2)[:2]
    if start == b"PK":
        archive = zipfile.ZipFile(file)
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                opened = functools.partial(_npy, functools.partial(archive.open, info), info.file_size)
                yield info.filename.removesuffix(".npy"), opened
    elif start == b"\x1f\x8b":
        yield "", lambda: _npy(lambda: gzip.GzipFile(fileobj=file), None)
    else:
        yield "", lambda: _npy(lambda: file, size)


def _npy(open_stream: Callable[[], Any], size: int | None) -> _Array:
    stream = open_stream()
    shape, dtype, is_fortran = read_header(stream, size)
    count = math.prod(shape)

    def read(elements: int) -> np.ndarray:
        content = stream.read(elements * dtype.itemsize)
        if len(content) != elements * dtype.itemsize:
            raise UserError("", f"damaged: it ends before element {count:,}", "make or fetch it again")
        return np.frombuffer(content, dtype)

    def parts() -> Iterator[np.ndarray]:
        if is_fortran:
            yield read(count).reshape(shape, order="F")
            return
        step = _PIECE // dtype.itemsize
        for start in range(0, count, step):
            yield read(min(step, count - start))

    return _Array(shape, dtype, parts)


def read_header(stream: Any, size: int | None) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and whether the first index runs fastest (Fortran's order), from an npy or idx header.

    Args:
        stream: The array's bytes follow in it.
        size: Bytes of the file, or None if it is packed.

    Raises:
        UserError: It is not an array of numbers, or its size is not that of the header.
    """
    try:
        if stream.peek(3)[:3] == b"\0\0\x08":  # bytes, in MNIST's format
            axes = stream.read(4)[3]
            shape, fortran, dtype = struct.unpack(f">{axes}I", stream.read(4 * axes)), False, np.dtype(np.uint8)
        else:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(stream)
    except (ValueError, TypeError, LookupError, SyntaxError, OverflowError, struct.error) as error:
        raise UserError("", f"not an npy or idx array, or a damaged one ({error})", "make or fetch it again") from None
    if not is_shape(shape):
        raise UserError("", "damaged: its array has an impossible shape", "make or fetch it again")
    if dtype.kind not in "biuf":
        fault = "Object arrays cannot be loaded" if dtype.hasobject else "its array does not hold plain numbers"
        raise UserError("", fault, "save an array of numbers")
    nbytes = math.prod(shape) * dtype.itemsize
    if size is not None and stream.tell() + nbytes != size:
        have = size - stream.tell()
        raise UserError("", f"has {have:,} bytes for an array of {nbytes:,}", "make or fetch it again")
    return shape, dtype, fortran


def read_npy(content: bytes) -> np.ndarray:
    """An npy file of numbers."""
    stream = BufferedReader(BytesIO(content))
    shape, dtype, fortran = read_header(stream, len(content))
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


# The child can import nothing later: numpy's reader of headers imports at its first use.
_stream = BytesIO()
np.save(_stream, np.zeros(1))
read_npy(_stream.getvalue())
