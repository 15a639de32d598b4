"""Records that the allow-list reader builds: descriptions of tensors, arrays and objects, without behaviour.

Parts of a file that are read in pieces, so that a gigabyte of weights is never in memory at once.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
from pathlib import Path
from typing import Any

from sida.files.tensors import ITEM_BYTES
from sida.unpickle.inert import InertObject, RefusedError

_AHEAD = 1 << 13


class Window:
    """Bytes ``start … start + length`` of an open file or of a byte string.

    Windows into windows share the source: tensors in a nested stream in a zip archive are still plain places in one
    file. The file is not mapped into memory, so that a file that shrinks meanwhile causes an error and not a crash.

    Args:
        source: The open file (which its windows keep open) or the bytes.
        start: First byte.
        length: Number of bytes.
    """

    def __init__(self, source: io.FileIO | bytes, start: int, length: int) -> None:
        self._source, self._start, self.length = source, start, length
        self._ahead, self._ahead_at = b"", 0

    @classmethod
    def of_file(cls, path: Path) -> Window:
        """Opens a file and returns a window of all its bytes."""
        stream = open(path, "rb", buffering=0)  # noqa: SIM115 (its windows keep it open)
        return cls(stream, 0, os.fstat(stream.fileno()).st_size)

    def part(self, offset: int, length: int) -> Window:
        """A window into this one.

        Raises:
            EOFError: The part reaches beyond this window.
        """
        if offset < 0 or length < 0 or offset + length > self.length:
            raise EOFError
        return Window(self._source, self._start + offset, length)

    def read_at(self, offset: int, length: int) -> bytes:
        """Reads few bytes, with a small look-ahead.

        Raises:
            EOFError: The bytes reach beyond the window.
        """
        begin = offset - self._ahead_at
        if begin >= 0 and begin + length <= len(self._ahead):
            return self._ahead[begin : begin + length]
        if offset < 0 or offset + length > self.length:
            raise EOFError
        self._ahead = self._read(offset, min(max(length, _AHEAD), self.length - offset))
        self._ahead_at = offset
        return self._ahead[:length]

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fills ``target`` with the bytes from ``offset`` on, without an extra copy.

        Raises:
            EOFError: The bytes reach beyond the window.
        """
        length = len(target)
        if offset < 0 or offset + length > self.length:
            raise EOFError
        if isinstance(self._source, bytes):
            target[:] = self._source[self._start + offset : self._start + offset + length]
            return
        done = 0
        while done < length:
            count = os.preadv(self._source.fileno(), [target[done:]], self._start + offset + done)
            if count == 0:
                raise EOFError
            done += count

    def tobytes(self) -> bytes:
        """All bytes; use it for small windows only."""
        return self._read(0, self.length)

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)


class WindowStream(io.RawIOBase):
    """A window as a seekable binary stream, for readers such as ``zipfile``.

    Args:
        window: The bytes.
        most: Largest number of bytes of one read.
    """

    def __init__(self, window: Window, most: int) -> None:
        self._window, self._position, self._most = window, 0, most

    def read(self, size: int = -1) -> bytes:
        """Reads bytes from the position on.

        Raises:
            OSError: More bytes than allowed; no memory is allocated for them.
        """
        left = max(0, self._window.length - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if size > self._most:
            raise OSError(f"a directory of {size} bytes, larger than any network's")
        return super().read(size) or b""

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position; see ``io.IOBase.seek``."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._window.length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fills ``buffer`` with the bytes from the position on, and returns their number."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(0, min(len(target), self._window.length - self._position))
        if count:
            self._window.read_into(self._position, target[:count])
            self._position += count
        return count


MAX_ARRAY_DIMENSIONS = 16
_SIMPLE_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)|[SU][1-9]\d{0,3}")
_MAX_ELEMENTS = 2**40


@dataclasses.dataclass(eq=False)
class Storage:
    """A flat piece of memory of a torch file.

    Attributes:
        dtype: Name as in safetensors (``"F32"``, ``"F16"``, ...).
        numel: Number of elements.
        data: The bytes; ``None`` until the reader reaches the data part of an old-format stream.
    """

    dtype: str
    numel: int
    data: Window | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return self.numel * ITEM_BYTES[self.dtype]


@dataclasses.dataclass(eq=False)
class Tensor:
    """A strided view of a storage, as in torch: neighbours along dimension d are ``stride[d]`` elements apart.

    Raises:
        RefusedError: The view reaches beyond the storage.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.stride)
        if not isinstance(self.storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise TypeError("a tensor with impossible sizes")
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_ARRAY_DIMENSIONS:
            raise TypeError("a tensor with impossible sizes")
        if self.numel == 0:
            return
        if self.offset + self.span > self.storage.numel or self.numel > self.storage.numel:
            raise RefusedError(f"a tensor claims {self.numel} elements and its storage holds {self.storage.numel}")

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Number of storage elements from the view's first to its last one."""
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride)) if self.numel else 0

    @property
    def contiguous(self) -> bool:
        """Whether the elements are consecutive in row-major order."""
        expected = 1
        for n, step in zip(reversed(self.shape), reversed(self.stride)):
            if n != 1 and step != expected:
                return False
            expected *= n
        return True


@dataclasses.dataclass(eq=False)
class Dtype(InertObject):
    """A numpy type; ``code`` like ``"f4"``, ``order`` one of ``< > = |``."""

    code: str
    order: str = "="

    def __post_init__(self) -> None:
        if isinstance(self.code, bytes):
            self.code = self.code.decode("latin-1")
        if not isinstance(self.code, str):
            raise TypeError("a numpy type without name")
        if not _SIMPLE_DTYPE.fullmatch(self.code):
            raise RefusedError(f"a numpy array of type {self.code[:20]!r}")

    def set_state(self, state: Any) -> None:
        """Takes the byte order from numpy's state tuple."""
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|") or state[2] is not None or state[3] is not None or state[4] is not None:
            raise RefusedError("a numpy array of a structured type")
        self.order = order


@dataclasses.dataclass(eq=False)
class NumpyArray(InertObject):
    """A numpy array, whose values stay in the file until :meth:`to_numpy`."""

    dtype: Dtype | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: bytes | Window = b""

    def set_state(self, state: Any) -> None:
        """Takes ``(version, shape, dtype, is Fortran order, bytes)``."""
        _, shape, dtype, fortran, data = state
        self.fill(dtype, shape, fortran, data)

    def fill(self, dtype: Any, shape: Any, fortran: Any, data: Any) -> None:
        """Sets type, shape and bytes.

        Raises:
            TypeError: They contradict each other.
        """
        if isinstance(data, str):
            data = data.encode("latin-1")
        sizes_fit = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        # The product without zeros counts, since numpy refuses huge sizes even beside a zero.
        sizes_fit = sizes_fit and math.prod(max(n, 1) for n in shape) < _MAX_ELEMENTS
        if not isinstance(dtype, Dtype) or not sizes_fit or not isinstance(data, (bytes, Window)):
            raise TypeError("an array with impossible sizes")
        self.dtype, self.shape, self.fortran, self.data = dtype, shape, bool(fortran), data

    @property
    def num_bytes(self) -> int:
        """Bytes of the data."""
        return self.data.length if isinstance(self.data, Window) else len(self.data)

    def to_numpy(self) -> Any:
        """Reads the array.

        Raises:
            ValueError: The number of bytes does not match type and shape.
        """
        import numpy as np

        if self.dtype is None:
            raise ValueError("an array without content")
        dtype = np.dtype(self.dtype.order + self.dtype.code)
        length = self.num_bytes
        if math.prod(self.shape) * dtype.itemsize != length:
            raise ValueError(f"an array of shape {self.shape} with {length} bytes")
        flat = np.empty(length, dtype=np.uint8)
        if isinstance(self.data, Window):
            self.data.read_into(0, flat.data)
        else:
            flat[:] = np.frombuffer(self.data, dtype=np.uint8)
        return flat.view(dtype).reshape(self.shape, order="F" if self.fortran else "C")


@dataclasses.dataclass(eq=False)
class PersistentObject:
    """An object whose class is stored as source text in the file; the text is never compiled.

    Attributes:
        class_name: Class inside the embedded module.
        state: The object's ``__dict__``.
        source: The embedded module as text.
        version: Format version written by the persistence layer.
    """

    class_name: str
    state: dict[str, Any]
    source: str
    version: int


@dataclasses.dataclass(eq=False)
class PlainObject(InertObject):
    """An object of an allowed library class; ``state`` is its ``__dict__``."""

    class_name: str
    state: dict[str, Any] = dataclasses.field(default_factory=dict)

    def set_state(self, state: Any) -> None:
        """Sets the attributes."""
        if not isinstance(state, dict):
            raise TypeError(f"{self.class_name} with a state that is no mapping")
        self.state = state


@dataclasses.dataclass(eq=False)
class Opaque(InertObject):
    """An object that no network needs, such as the handle of a hook; its state is dropped."""

    class_name: str

    def set_state(self, state: Any) -> None:
        """Ignores the state."""


@dataclasses.dataclass(eq=False)
class BoundMethod:
    """A reference to a method of an object, such as a forward hook; it cannot be called."""

    target: PersistentObject | PlainObject
    name: str


@dataclasses.dataclass(eq=False)
class Named:
    """A library constant, represented by its name, such as ``torch.float16`` or a device."""

    name: str


class AttributeDict(dict[str, Any]):
    """A dictionary whose keys were also attributes in the original class."""
