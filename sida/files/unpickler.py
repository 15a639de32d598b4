"""Reads pickles in a child by an allow-list, so that no code of theirs runs.

A name in a pickle becomes an inert class instead of an import, or one of a dozen functions that make plain values. An
object of an inert class is refused only where its value is needed.

Formats: pytorch/pytorch:torch/serialization.py; the persistence layer of the published networks stores type, version,
module source, class name and state.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

from sida.errors import UserError, suggestion
from sida.files.entries import find_entry, is_weights, weights_in
from sida.files.fenced import ANY_ARRAY, SHAPE, Either, fits, only_in_child

AGAIN, _METHOD = "download it again", "method "
#: Remedy for weights without an architecture of this package.
FOREIGN_WEIGHTS = (
    "name the architecture (sida convert FILE OUT.safetensors --network config.json; of SiT, REPA and DiT the class "
    "alone, --network-class), or draw the images by a Python function (docs/score.md, 'A function')"
)
SAVED_WHOLE = (
    f"save its weights (torch.save(net.state_dict(), FILE)), then {FOREIGN_WEIGHTS}; or save it by torch.export"
)
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

    def values(self) -> np.ndarray:
        """The elements in memory of the storage, read-only; UserError for sizes outside it.

        They may repeat elements of the storage: the parent bounds their number.
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
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)

    def numbers(self) -> np.ndarray:
        """The elements as :meth:`values`; float32 instead of bfloat16."""
        return _as_numbers(self.values(), self.storage.kind)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of :meth:`numbers`."""
        return np.dtype("<f4") if self.storage.kind == "BFloat16" else self.storage.dtype


def _as_numbers(values: np.ndarray, kind: str) -> np.ndarray:
    """Elements of a storage; float32 for bfloat16, which is its upper half and which numpy does not have."""
    return (values.astype("<u4") << 16).view("<f4") if kind == "BFloat16" else values


def _is_view(value: Any) -> bool:
    return isinstance(value, View)


class _Object:
    """Inert object instead of one whose class is not loaded; its type has the name of that class, with the module for a
    library's class.
    """

    source: str | None = None
    state: Any
    args: tuple[Any, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> _Object:
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


def _inert(name: str) -> type[_Object]:
    return type(name, (_Object,), {})


def _persistent(meta: dict[str, Any]) -> _Object:
    instance = _inert(meta["class_name"])()
    instance.source, instance.state = str(meta["module_src"]), meta["state"]
    return instance


def _method(target: Any, name: str) -> _Object:
    """Inert method of an inert object: pickles of modules name their hooks by getattr."""
    if not isinstance(target, _Object) or type(target).__name__.startswith(_METHOD):
        raise UserError("", f"refused: it asks for an attribute of a {type(target).__name__}", "no network needs it")
    return _inert(_METHOD + name)(target)


def _with_attributes(make: Any, kind: Any, args: Any) -> Any:
    """A tensor with attributes, such as ``nn.Buffer``, without them; an inert object of any other subclass."""
    plain = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
    name = getattr(kind, "__name__", "")
    return make(*args) if name in plain else _inert(f"torch._tensor{_REBUILD}from_type_v2 ({name})")()


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
_REBUILD = "._rebuild_"
_LEGACY, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OTHER = "not a network of EDM, EDM2, SiD, SiDA or GDD"


class _Unpickler(pickle.Unpickler):
    """Python's unpickler with the allow-list.

    It is safe behind the fence only: a file can set any attribute of the objects that it makes.
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
        return _Unpickler(file).load()
    if start[:4] == b"PK\3\4":
        return _read_zip(zipfile.ZipFile(file))
    # After the protocol, the integer with which torch.save began its files before version 1.6.
    if start[2:].startswith(b"\x8a\x0a" + _LEGACY.to_bytes(10, "little")):
        return _read_legacy(file)
    if start[:1] != b"\x80":
        raise UserError("", "empty, or not a pickle of protocol 2 to 5", "check the path, or download it again")
    return _Unpickler(file).load()


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

    return _Unpickler(io.BytesIO(archive.read(names[0])), storage).load()


def _read_legacy(file: Any) -> Any:
    kinds: dict[str, str] = {}
    memory: dict[str, bytes] = {}

    def storage(kind: str, name: str) -> _Storage:
        # The memory follows the pickles, so it is read after them.
        kinds[name] = kind
        return _Storage(kind, lambda: memory[name])

    magic, protocol, facts, value, keys = (_Unpickler(file, storage).load() for _ in range(5))
    if magic != _LEGACY or protocol != _LEGACY_PROTOCOL or facts.get("little_endian") is not True:
        raise UserError("", "a torch stream of an unknown version, or big-endian", "save it again with torch.save")
    for name in map(str, keys):
        count = int.from_bytes(file.read(8), "little")
        memory[name] = file.read(count * _Storage(kinds[name]).dtype.itemsize)
    return value


_TENSORS = {"tensors": [(str, SHAPE)]}
#: Entries of a checkpoint with the arguments of its training, and the largest number of arguments.
_ARGUMENTS, _MOST_ARGUMENTS = (
    ("args", "config", "cfg", "hparams", "hyper_parameters", "model_args", "model_config"),
    1000,
)
_NETWORK = {"class": str, "source_sha256": str, "hook": Either((None, bool, str)), "args": list, "kwargs": dict}


class Reader:
    """Answers for one file: facts about its value, then pieces of its tensors."""

    FORMS = {
        "plain": (object, {str: ANY_ARRAY}),
        "weights": (
            {**_TENSORS, "prefix": str, "arguments": Either((None, {str: Either((None, bool, int, float, str))}))}, {},
        ),
        "piece": (None, {"piece": ("<f4", (int,))}),
        "network": ({**_NETWORK, **_TENSORS, "entries": [str], "inert": [str]}, {}),
    }  # fmt: skip

    def __init__(self) -> None:
        self._views: dict[str, View] = {}
        self._last: tuple[str, np.ndarray] = ("", np.empty(0))

    def plain(self, files: list[BinaryIO]) -> tuple[Any, dict[str, np.ndarray]]:
        """The value as JSON, where ``{"": name}`` stands for an array."""
        arrays: dict[str, np.ndarray] = {}
        return _as_json(read_value(files[0]), arrays), arrays

    def weights(self, files: list[BinaryIO], key: str | None) -> tuple[Any, dict[str, np.ndarray]]:
        """Names and shapes of the file's dictionary of tensors, or of the entry to which ``key`` begins to lead;
        the rest of the key as ``prefix``, and the plain ``arguments`` of the training beside them.

        Values that are not tensors are left out.
        """
        content = read_value(files[0])
        value, prefix = find_entry(content, key)
        for name, entry in value.items() if isinstance(value, dict) else ():
            if isinstance(entry, _Object) and _REBUILD in (made_by := type(entry).__name__):
                fault = f"'{name!s:.80}' is a tensor of a kind that is not read ({made_by:.80})"
                raise UserError("", fault, "save it as an ordinary tensor of floats")
        if not is_weights(value, View):
            counts = {name: sum(map(_is_view, entry.values())) for name, entry in weights_in(content, View)}
            entries = [f"{name} ({count} tensor{'s' if count > 1 else ''})" for name, count in counts.items()]
            if entries:
                raise UserError("", f"holds weights in entries: {', '.join(entries[:8])}", "name one with --key")
            kind = "" if isinstance(value, dict) else f", but {_kind_of_value(value)}"
            raise UserError(
                "", f"holds no dictionary of tensors{kind}", "save its weights (torch.save(net.state_dict(), FILE))"
            )
        self._views = {name: view for name, view in value.items() if _is_view(view)}
        return {**self._tensors(), "prefix": prefix, "arguments": _arguments(content)}, {}

    def _tensors(self) -> dict[str, Any]:
        """Names and shapes of the tensors."""
        for name, view in self._views.items():
            if not fits(view.shape, SHAPE):
                raise UserError("", f"damaged: tensor '{name:.80}' has an impossible shape", AGAIN)
        return {"tensors": [[name, view.shape] for name, view in self._views.items()]}

    def network(self, files: list[BinaryIO], key: str) -> tuple[Any, dict[str, np.ndarray]]:
        """Facts about a pickled network, the value itself or its entry ``key``.

        These are ``class``, ``source_sha256`` of its source text, ``args`` and ``kwargs`` of its constructor, names and
        shapes of its ``tensors`` (parameters and persistent buffers), the ``entries`` of the file, and the names that
        became ``inert`` objects. ``hook`` is
        for layers with a hook before their pass: "own" if it is a method of the layer itself; else, of a detached copy,
        whether a copy is in training mode. It is None without such hooks.
        """
        value = read_value(files[0])
        network = _network(value, key)
        hook: Any = None
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
                    self._views[f"{prefix}{name}"] = view
            for method in _group(state, "_forward_pre_hooks").values():
                bound = isinstance(method, _Object) and type(method).__name__.startswith(_METHOD)
                target = getattr(method.args[0], "state", None) if bound else None
                if isinstance(target, dict) and hook != "own":
                    hook = "own" if target is state else bool(hook) or target.get("training") is True
        if not self._views:
            raise UserError("", "the network has no tensors", _OTHER)
        args, kwargs = network.state.get("_init_args", ()), network.state.get("_init_kwargs")
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise UserError("", f"{type(network).__name__} does not record its constructor arguments", "not loadable")
        source = (network.source or "").encode("utf-8", "surrogatepass")
        return {
            "class": type(network).__name__, "source_sha256": hashlib.sha256(source).hexdigest(), "hook": hook,
            "args": _as_json(args), "kwargs": _as_json(kwargs), **self._tensors(),
            "entries": [str(name) for name in itertools.islice(value, 100)] if isinstance(value, dict) else [],
            "inert": sorted(_Unpickler.inert)[:100],
        }, {}  # fmt: skip

    def piece(self, files: list[BinaryIO], name: str, start: int, count: int) -> tuple[Any, dict[str, np.ndarray]]:
        """Elements of a tensor as float32."""
        view = self._views[name]
        if view.storage.dtype.kind != "f" and view.storage.kind != "BFloat16":
            fault = f"tensor '{name}' is of type {view.storage.kind}"
            raise UserError("", fault, "networks have floating-point tensors only")
        # The pieces of one tensor are asked for in a row, and a storage may take long to unpack.
        if self._last[0] != name:
            self._last = (name, view.values())
        part = _as_numbers(self._last[1].reshape(-1)[start : start + count], view.storage.kind)
        part = np.ascontiguousarray(part, dtype=np.float32)
        if not np.isfinite(part).all():
            raise UserError("", f"tensor '{name}' holds NaN or infinity", "take another snapshot")
        return None, {"piece": part}


def _as_json(value: Any, arrays: dict[str, np.ndarray] | None = None) -> Any:
    """Converts a value to JSON.

    Args:
        value: Value of a pickle.
        arrays: Receives the arrays of the value, each by a number; the JSON has ``{"": number}`` for it. None refuses
            arrays.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, View) and arrays is not None:
        value = value.numbers()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _as_json(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_json(item, arrays) for item in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return value.tolist()
    if arrays is None or not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        fault = f"holds {_kind_of_value(value)}, where only plain values and arrays may be"
        raise UserError("", fault, "no published file needs it; use sida convert for networks")
    arrays[name := str(len(arrays))] = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return {"": name}


def _kind_of_value(value: Any) -> str:
    """Returns words for the kind of a value, e.g. ``a tensor``."""
    if isinstance(value, _Object):
        return f"an object of class '{type(value).__name__}'"
    if isinstance(value, type):
        return f"the class '{value.__name__}'"
    if isinstance(value, np.ndarray):
        return f"a numpy array of type {value.dtype!s:.40}"
    if isinstance(value, dict):
        return "plain values or tensors"
    return "a tensor" if isinstance(value, View) else f"a {type(value).__name__}"


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
        group = group.state if isinstance(group, _Object) else group
        if id(group) in groups:
            continue
        groups.add(id(group))
        for name, value in itertools.islice(group.items(), _MOST_ARGUMENTS) if isinstance(group, dict) else ():
            if isinstance(value, (dict, _Object)):
                waiting.append(value)
            elif isinstance(name, str) and (value is None or type(value) in (bool, float, str) or _is_small(value)):
                arguments.setdefault(name[:80], set()).add(value[:200] if isinstance(value, str) else value)
    single = {name: next(iter(values)) for name, values in arguments.items() if len(values) == 1}
    return dict(itertools.islice(single.items(), _MOST_ARGUMENTS))


def _is_small(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 62


def _network(value: Any, key: str) -> _Object:
    """The network: the value itself or its entry ``key``."""
    if isinstance(value, dict) and key in value:
        value = value[key]
    elif isinstance(value, dict) and not any(isinstance(entry, View) for entry in value.values()):
        keys = [str(name)[:40] for name in itertools.islice(value, 100)]
        remedy = "name the network's: sida convert FILE OUT.safetensors --key ENTRY"
        raise UserError("", f"has no entry '{key}'{suggestion(key, keys)}", remedy)
    if isinstance(value, _Object) and value.source is not None:
        return value
    tensors = sum(isinstance(entry, View) for entry in value.values()) if isinstance(value, dict) else 0
    if tensors:
        raise UserError("", f"holds weights alone ({tensors:,} tensors), not a network with its class", FOREIGN_WEIGHTS)
    raise UserError("", f"holds {_kind_of_value(value)}, not a network with its class", SAVED_WHOLE)


def _modules(module: Any, prefix: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Prefix of names and state of a module and of all modules below it, in the order of a state dict."""
    if not isinstance(module, _Object) or not isinstance(module.state, dict):
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


# Both import modules at their first use, which the fence forbids later.
for _name in ("latin-1", "utf-8", "ascii", "cp437"):
    "".encode(_name)
np.lib.stride_tricks.as_strided(np.zeros(2), (1,), (8,))
