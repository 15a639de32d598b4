"""Reads pickles in a child by an allow-list, so that no code of theirs runs.

A name in a pickle becomes an inert class instead of an import, or one of a dozen functions that make plain values. An
object of an inert class is refused only where its value is needed.

Formats: pytorch/pytorch:torch/serialization.py; the persistence layer of the published networks stores type, version,
module source, class name and state.
"""

from __future__ import annotations

import functools
import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sida.errors import UserError
from sida.files.child import only_in_child

AGAIN, METHOD = "download it again", "method "
#: Types of the elements by the names of PyTorch's storages; numpy has no bfloat16, so its bits are read as integers.
_TYPES = {
    "Float": "<f4", "Half": "<f2", "Double": "<f8", "BFloat16": "<u2", "Long": "<i8", "Int": "<i4", "Short": "<i2",
    "Char": "|i1", "Byte": "|u1", "Bool": "|b1", "Untyped": "|u1",
}  # fmt: skip


class _Storage(NamedTuple):
    """Flat memory of a file: type of the elements, a name of :data:`_TYPES`, and the function that reads its bytes."""

    kind: str
    read: Callable[[], Any] = bytes

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.kind not in _TYPES:
            raise UserError("", f"holds numbers of type {self.kind:.40}", "save them as float32")
        return np.dtype(_TYPES[self.kind])


class View(NamedTuple):
    """A strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def numbers(self) -> np.ndarray:
        """The elements, read-only, float32 instead of bfloat16; UserError for sizes outside the storage.

        They may repeat elements of the storage: callers bound their number.
        """
        flat = np.frombuffer(self.storage.read(), self.storage.dtype)
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise UserError("", "damaged: a tensor with impossible sizes", AGAIN)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride))
        if math.prod(self.shape) and last >= len(flat):
            raise UserError("", "damaged: a tensor claims more elements than its storage holds", AGAIN)
        # as_strided checks no bounds; the checks above keep it within the storage.
        strides = [step * flat.itemsize for step in self.stride]
        values = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        # bfloat16 is the upper half of float32, and numpy does not have it.
        return (values.astype("<u4") << 16).view("<f4") if self.storage.kind == "BFloat16" else values

    @property
    def is_float(self) -> bool:
        """Whether the elements are of floating point."""
        return self.storage.kind in ("Float", "Half", "Double", "BFloat16")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of :meth:`numbers`."""
        return np.dtype("<f4") if self.storage.kind == "BFloat16" else self.storage.dtype


class Inert:
    """Inert object instead of one whose class is not loaded; its type has the name of that class, with the module for a
    library's class.
    """

    source: str | None = None
    state: Any
    args: tuple[Any, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:  # noqa: D102
        # Pickles may make an object without calling __init__.
        instance = super().__new__(cls)
        instance.args, instance.state = args, {}
        return instance

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def _ignore(self, *items: Any) -> None:
        """Takes an item of an object that is a list, a set or a dictionary."""

    append = extend = add = __setitem__ = _ignore


class _Settings(dict[Any, Any]):
    """A dictionary that accepts attributes and ignores them."""


def _inert(name: str) -> type[Inert]:
    return type(name, (Inert,), {})


def _persistent(meta: dict[str, Any]) -> Inert:
    instance = _inert(meta["class_name"])()
    instance.source, instance.state = str(meta["module_src"]), meta["state"]
    return instance


def _method(target: Any, name: str) -> Inert:
    """Inert method of an inert object: pickles of modules name their hooks by getattr."""
    if not isinstance(target, Inert) or type(target).__name__.startswith(METHOD):
        raise UserError("", f"refused: it asks for an attribute of a {type(target).__name__}", "no network needs it")
    return _inert(METHOD + name)(target)


def _with_attributes(make: Any, kind: Any, args: Any) -> Any:
    """A tensor with attributes, such as ``nn.Buffer``, without them; an inert object of any other subclass."""
    plain = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
    name = getattr(kind, "__name__", "")
    return make(*args) if name in plain else _inert(f"torch._tensor{REBUILD}from_type_v2 ({name})")()


_CORE: Any = np._core if hasattr(np, "_core") else np.core  # numpy 2 renamed it
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict, "collections.Counter": dict, "dnnlib.util.EasyDict": _Settings,
    "torch.Size": tuple,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch.storage._load_from_bytes": lambda data: read_value(io.BytesIO(data)),
    **dict.fromkeys(("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
                    lambda storage, offset, shape, stride, *_: View(storage, offset, tuple(shape), tuple(stride))),
    **dict.fromkeys(("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
                    lambda data, *_: data),
    "torch._tensor._rebuild_from_type_v2": lambda make, kind, args, state: _with_attributes(make, kind, args),
    "_codecs.encode": lambda text, encoding: text.encode({"latin1": "latin-1", "latin-1": "latin-1"}[encoding]),
    "numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype,
    **{f"numpy.{core}.multiarray.{name}": getattr(_CORE.multiarray, name)
       for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{f"numpy.{core}.numeric._frombuffer": _CORE.numeric._frombuffer for core in ("core", "_core")},
    **{f"{module}.{name}": made for module in ("builtins", "__builtin__") for name, made in
       {"set": set, "frozenset": frozenset, "complex": complex, "bytearray": bytes, "bytes": bytes,
        "getattr": _method}.items()},
}  # fmt: skip
#: Part of the names of torch's functions that make tensors, of which two kinds are read.
REBUILD = "._rebuild_"
_LEGACY, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Unpickler(pickle.Unpickler):
    """Python's unpickler with the allow-list.

    It is safe in such a child only: a file can set any attribute of the objects that it makes.
    """

    #: Names that became inert objects; a child reads one file.
    inert: ClassVar[set[str]] = set()

    def __init__(self, file: Any, storage: Callable[[str, str], _Storage] | None = None) -> None:
        only_in_child()
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The function, type or inert class for a name of the file."""
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if module in ("torch", "torch.cuda", "torch.storage") and name.removesuffix("Storage") in _TYPES:
            return _Storage(name.removesuffix("Storage"))
        self.inert.add(full)
        return _inert(full)

    def persistent_load(self, key: Any) -> Any:
        """The memory of a tensor."""
        if self._storage is None:
            raise UserError("", "refused: it refers to data outside the file", "no published checkpoint needs it")
        if key[0] == "module":  # a class with its source text, for warnings
            return key[1]
        _, storage, name, _, _, *views = key
        if any(views):
            raise UserError("", "refused: it holds storage views of PyTorch before 0.4", "save it again")
        kind = storage.kind if isinstance(storage, _Storage) else getattr(storage, "__name__", "")
        return self._storage(kind, str(name))


def read_value(file: Any) -> Any:
    """The value of a pickle, of an npy of objects, or of a container of ``torch.save``: a zip archive, or pickles
    followed by memory.
    """
    start = file.read(16)
    file.seek(0)
    if start.startswith(np.lib.format.MAGIC_PREFIX):
        version = np.lib.format.read_magic(file)
        file.seek(int.from_bytes(file.read(2 if version == (1, 0) else 4), "little"), io.SEEK_CUR)
        return Unpickler(file).load()
    if start[:4] == b"PK\3\4":
        return _read_zip(zipfile.ZipFile(file))
    # After the protocol, the integer with which torch.save began its files before version 1.6.
    if start[2:].startswith(b"\x8a\x0a" + _LEGACY.to_bytes(10, "little")):
        return _read_legacy(file)
    if start[:1] != b"\x80":
        raise UserError("", "empty, or not a pickle of protocol 2 to 5", "check the path, or download it again")
    return Unpickler(file).load()


def _read_zip(archive: zipfile.ZipFile) -> Any:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(names) != 1:
        fault = "a zip archive, but not one of torch.save (no data.pkl)"
        raise UserError("", fault, "give the network's .pkl (pictures: sida score)")
    prefix = names[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
        raise UserError("", "written on a big-endian machine", "save it again on a little-endian one")

    # Tensors of a list may share one storage.
    read = functools.lru_cache(1)(archive.read)

    def storage(kind: str, name: str) -> _Storage:
        return _Storage(kind, lambda: read(f"{prefix}data/{name}"))

    return Unpickler(io.BytesIO(archive.read(names[0])), storage).load()


def _read_legacy(file: Any) -> Any:
    kinds: dict[str, str] = {}
    memory: dict[str, bytes] = {}

    def storage(kind: str, name: str) -> _Storage:
        # The memory follows the pickles, so it is read after them.
        kinds[name] = kind
        return _Storage(kind, lambda: memory[name])

    magic, protocol, facts, value, keys = (Unpickler(file, storage).load() for _ in range(5))
    if magic != _LEGACY or protocol != _LEGACY_PROTOCOL or facts.get("little_endian") is not True:
        raise UserError("", "a torch stream of an unknown version, or big-endian", "save it again with torch.save")
    for name in map(str, keys):
        count = int.from_bytes(file.read(8), "little")
        memory[name] = file.read(count * _Storage(kinds[name]).dtype.itemsize)
    return value


def kind_of_value(value: Any) -> str:
    """Returns words for the kind of a value, e.g. ``a tensor``."""
    if isinstance(value, Inert):
        return f"an object of class '{type(value).__name__}'"
    if isinstance(value, type):
        return f"the class '{value.__name__}'"
    if isinstance(value, np.ndarray):
        return f"a numpy array of type {value.dtype!s:.40}"
    if isinstance(value, dict):
        return "plain values or tensors"
    return "a tensor" if isinstance(value, View) else f"a {type(value).__name__}"


# Both import modules at their first use, which the child forbids later.
for _name in ("latin-1", "utf-8", "ascii", "cp437"):
    "".encode(_name)
np.lib.stride_tricks.as_strided(np.zeros(2), (1,), (8,))
