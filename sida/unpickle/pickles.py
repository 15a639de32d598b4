"""Reading of untrusted pickles without executing them: plain ones and those of ``torch.save``.

The allow-list: every name that a genuine checkpoint may contain, with an inert replacement.

The names are those that PyTorch, numpy and the persistence layer of the published pickles write (public formats:
pytorch/pytorch:torch/serialization.py, numpy:doc/neps and ``__reduce__``; the persistence layer stores type, version,
module source, class name and state). Nothing on the list is imported.
"""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.unpickle import records
from sida.unpickle.inert import (
    MAX_NESTING,
    Allowed,
    Budget,
    RefusedError,
    checked_key,
    expect_type,
    printable,
    refusals,
)
from sida.unpickle.pickle_machine import PickleMachine
from sida.unpickle.records import NumpyArray, Tensor, Window
from sida.unpickle.torch_stream import LEGACY_MAGIC, is_zip, read_torch_stream

STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "DoubleStorage": "F64", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
_TORCH_CONSTANTS = """
    float32 float16 float64 bfloat16 int64 int32 int16 int8 uint8 bool
    strided contiguous_format channels_last preserve_format
"""
_NUMPY_CONSTANTS = "float16 float32 float64 int8 int16 int32 int64 uint8 bool_"
_MODULES = {
    "container": "ModuleDict ModuleList Sequential ParameterList ParameterDict",
    "linear": "Linear Identity",
    "conv": "Conv1d Conv2d ConvTranspose2d",
    "normalization": "GroupNorm LayerNorm",
    "activation": "SiLU ReLU LeakyReLU GELU Sigmoid Tanh",
    "dropout": "Dropout Dropout2d",
    "pooling": "AvgPool2d AdaptiveAvgPool2d MaxPool2d",
    "upsampling": "Upsample",
    "flatten": "Flatten",
    "batchnorm": "BatchNorm1d BatchNorm2d",
    "sparse": "Embedding",
    "loss": "MSELoss BCEWithLogitsLoss CrossEntropyLoss",
}


class AllowList:
    """Resolves the names of one file.

    Args:
        budget: Shared limits of the file and the streams nested in it.
        nesting: Number of streams around this one.
    """

    def __init__(self, budget: Budget, nesting: int = 0) -> None:
        self._budget, self._nesting = budget, nesting
        self._stream = Allowed("torch.storage._load_from_bytes", self._nested_stream)

    def resolve(self, module: str, name: str) -> Any:
        """The inert stand-in for ``module.name``.

        Raises:
            RefusedError: The name is not on the list.
        """
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._stream
        entry = _fixed_entries().get((module, name))
        if entry is None:
            raise RefusedError(f"it refers to '{printable(f'{module}.{name}')}'")
        return entry

    def _nested_stream(self, data: Any) -> Any:
        """Reads a torch file inside a byte string, in which a plain pickle stores a tensor's memory."""
        if isinstance(data, bytes):
            data = Window(data, 0, len(data))
        expect_type(data, Window)
        if self._nesting >= MAX_NESTING:
            raise RefusedError(f"it nests more than {MAX_NESTING} torch streams")
        self._budget.enter(data.length)
        return read_torch_stream(data, AllowList(self._budget, self._nesting + 1).resolve, self._budget)


@functools.cache
def _fixed_entries() -> dict[tuple[str, str], Any]:
    """Entries that do not depend on the file."""
    makers: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): _ordered_dict,
        ("dnnlib.util", "EasyDict"): _settings,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch.utils.hooks", "RemovableHandle"): lambda: records.Opaque("torch.utils.hooks.RemovableHandle"),
        ("torch", "Size"): _size,
        ("torch", "device"): _device,
        ("torch.serialization", "_get_layout"): lambda name: records.Named(expect_type(name, str)),
        ("_codecs", "encode"): _encode,
    }
    for core in ("numpy.core", "numpy._core"):
        makers[f"{core}.multiarray", "_reconstruct"] = _empty_array
        makers[f"{core}.multiarray", "scalar"] = _scalar
        makers[f"{core}.numeric", "_frombuffer"] = _array_from_buffer
    makers["numpy", "ndarray"] = _not_called
    makers["numpy", "dtype"] = lambda code, *_: records.Dtype(code)
    for builtins in ("builtins", "__builtin__"):
        makers[builtins, "getattr"] = _bound_method
        makers[builtins, "set"] = _set
        makers[builtins, "frozenset"] = lambda items=(): frozenset(_set(items))
        makers[builtins, "bytearray"] = _bytes
        makers[builtins, "bytes"] = _bytes
        makers[builtins, "complex"] = lambda real, imag: complex(
            *(float(expect_type(x, (int, float))) for x in (real, imag))
        )
    entries: dict[tuple[str, str], Any] = {k: Allowed(".".join(k), make) for k, make in makers.items()}
    for folder, classes in _MODULES.items():
        for name in classes.split():
            full = f"torch.nn.modules.{folder}.{name}"
            entries[f"torch.nn.modules.{folder}", name] = Allowed(full, _plain_object(full))
    for name, dtype in STORAGES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            entries[module, name] = records.Storage(dtype, 0)
    for module, names in (("torch", _TORCH_CONSTANTS), ("numpy", _NUMPY_CONSTANTS)):
        entries.update({(module, name): records.Named(f"{module}.{name}") for name in names.split()})
    entries["torch.nn.parameter", "Parameter"] = records.Named("torch.nn.parameter.Parameter")
    return entries


def _plain_object(name: str) -> Callable[[], records.PlainObject]:
    return lambda: records.PlainObject(name)


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    result: OrderedDict[Any, Any] = OrderedDict()
    for key, value in pairs:
        result[expect_type(key, str)] = value
    return result


def _settings(items: Any = ()) -> records.AttributeDict:
    pairs = items.items() if isinstance(items, dict) else items
    return records.AttributeDict((checked_key(key), value) for key, value in pairs)


def _persistent_object(meta: Any) -> records.PersistentObject:
    """Keeps the record of an object with embedded source; the source stays text."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise RefusedError("a persistent object that is not a class instance")
    state, version = meta.get("state"), meta.get("version")
    if not isinstance(state, dict) or not isinstance(version, int):
        raise TypeError("a persistent object without state or version")
    name, source = (expect_type(meta.get(key), str) for key in ("class_name", "module_src"))
    return records.PersistentObject(name, state, source, version)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Tensor:
    return expect_type(data, Tensor)


def _size(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple) or not all(type(n) is int for n in numbers):
        raise TypeError("sizes must be whole numbers")
    return numbers


def _device(*parts: Any) -> records.Named:
    return records.Named(":".join(printable(str(part)) for part in parts[:2] if isinstance(part, (str, int))))


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"it encodes a text as {_shown(encoding)}")
    return expect_type(text, str).encode("latin-1")


def _empty_array(kind: Any, shape: Any, code: Any) -> NumpyArray:
    if not (isinstance(kind, Allowed) and kind.name == "numpy.ndarray"):
        raise RefusedError("a numpy array of a foreign class")
    return NumpyArray()


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> NumpyArray:
    array = NumpyArray()
    array.fill(dtype, shape, order == "F", data)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    array = NumpyArray()
    array.fill(dtype, (), False, data)
    return array.to_numpy()[()].item()


def _set(items: Any = ()) -> set[Any]:
    return set(map(checked_key, expect_type(items, (list, tuple))))


def _bytes(data: Any = b"") -> Any:
    return expect_type(data, (bytes, Window))


def _bound_method(target: Any, name: Any, *default: Any) -> records.BoundMethod:
    """Reference to a method, with which genuine files name a module's hook; other attributes are refused."""
    if default or not isinstance(target, (records.PersistentObject, records.PlainObject)) or not isinstance(name, str):
        whose = target.name if isinstance(target, (Allowed, records.Named)) else type(target).__name__
        raise RefusedError(f"it asks builtins.getattr for {_shown(name)} of '{printable(whose, 40)}'")
    return records.BoundMethod(target, name)


def _not_called(*_: Any) -> Any:
    raise RefusedError("it calls numpy.ndarray")


def _shown(value: Any) -> str:
    """A text, or the type of another value, which may be endless when it is written out."""
    return f"'{printable(value, 40)}'" if isinstance(value, str) else f"a {type(value).__name__}"


MAX_VALUE_DEPTH = 64
_LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")


def open_pickle(path: str | os.PathLike[str]) -> tuple[Any, Window]:
    """Reads a pickle as plain values and records of :mod:`sida.unpickle.records`.

    Args:
        path: A plain pickle (protocol 2 to 5) or a file of ``torch.save``, old or new format.

    Returns:
        ``(value, window)``; tensors in ``value`` refer to their bytes in ``window``, which spans the file.

    Raises:
        UserError: The file is missing, empty, cut off, not a pickle, or outside the allow-list.
    """
    path = Path(path)
    with refusals(str(path)):
        if not path.is_file():
            raise UserError("", "no such file", "check the path, or fetch it: sida assets fetch")
        window = Window.of_file(path)
        return _value(window), window


def _value(window: Window) -> Any:
    if window.length == 0:
        raise UserError("", "the file is empty", "delete it and download it again")
    start = window.read_at(0, min(window.length, 16))
    budget = Budget.of_file(window.length)
    resolve = AllowList(budget).resolve
    if is_zip(window) or start[2:].startswith(_LEGACY_START):
        return read_torch_stream(window, resolve, budget)
    if start[0] != 0x80:
        hint = "an HTML page: the download went wrong" if start.lstrip()[:1] == b"<" else "check the path"
        raise UserError("", f"not a pickle of protocol 2 to 5 ({hint})")
    return PickleMachine(window, resolve, budget).load()[0]


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of plain values and numpy arrays, e.g. reference statistics, without executing anything.

    Args:
        path: A plain pickle (protocol 2 to 5) of dictionaries, lists, tuples, numbers, texts and numpy arrays.

    Returns:
        The same structure, with arrays as new ``numpy.ndarray`` and byte strings as ``bytes``.

    Raises:
        UserError: As :func:`open_pickle`, or the file holds tensors or objects (for networks: ``sida convert``).
    """
    value, window = open_pickle(path)
    with refusals(str(path)):
        return _plain_value(value, window)


def parse_pickle(content: bytes, where: str) -> Any:
    """As :func:`read_pickle`, for a pickle in memory (a member of an archive); ``where`` is named in errors."""
    window = Window(content, 0, len(content))
    with refusals(where):
        return _plain_value(_value(window), window)


def _plain_value(value: Any, window: Window) -> Any:
    try:
        return _plain(value, {}, 0, [0], window.length)
    except (ValueError, EOFError) as error:
        raise UserError("", error, "download it again, or use sida convert if it is a network") from None


def _plain(value: Any, done: dict[int, Any], depth: int, total: list[int], size: int) -> Any:
    """Copies a structure, with arrays as numpy arrays; shared parts stay shared, so that the copy is not larger."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise ValueError("a structure that contains itself")
        return done[id(value)]
    if depth > MAX_VALUE_DEPTH:
        raise ValueError(f"values are nested more than {MAX_VALUE_DEPTH} deep")
    done[id(value)] = _UNFINISHED

    def inner(item: Any) -> Any:
        return _plain(item, done, depth + 1, total, size)

    result: Any
    if isinstance(value, dict):
        result = {key: inner(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(inner(item) for item in value)
    elif isinstance(value, (set, frozenset)):
        result = value
    elif isinstance(value, (NumpyArray, Window)):
        length = value.length if isinstance(value, Window) else value.num_bytes
        total[0] += length
        if total[0] > 2 * size + (1 << 20):
            raise ValueError("its arrays claim more bytes than the file has")
        result = value.tobytes() if isinstance(value, Window) else value.to_numpy()
    else:
        raise ValueError(f"holds a {type(value).__name__}, not only plain values and arrays")
    done[id(value)] = result
    return result


_UNFINISHED = object()
