"""Pickle interpreter that cannot run code: opcodes move plain values, names become inert records.

Python's ``pickle`` imports and calls the names in a file, so an untrusted checkpoint is a program. This interpreter
implements the opcodes of protocols 2 to 5 (documented in CPython:Lib/pickletools.py), but looks names up in an
allow-list (:mod:`sida.unpickle.pickles`) whose entries build records; nothing else can be called. A
:class:`~sida.unpickle.inert.Budget` bounds time and memory: each opcode takes a step, and a call one for every item of
its arguments. Every claimed length is compared with the remaining bytes before memory is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from sida.errors import UserError
from sida.unpickle import inert
from sida.unpickle.inert import MAX_TEXT, Allowed, Budget, InertObject, RefusedError, checked_key
from sida.unpickle.records import Window

MAX_STACK = 200_000
MAX_MARKS = 5_000
MAX_LINE = 512
MAX_INTEGER_BYTES = 16
STEPS_PER_CALL = 4
"""Steps of a call or a set: each takes some hundred bytes of memory for one or two bytes of the file."""
INLINE_BYTES = 4096
"""Byte strings up to this length become ``bytes``; longer ones stay in the file as a :class:`Window`."""

_CONSTANTS: dict[int, Any] = {ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()}
_EMPTY: dict[int, type] = {ord("]"): list, ord("}"): dict, 0x8F: set}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_INTEGERS = {ord("K"): "<B", ord("M"): "<H", ord("J"): "<i"}
_SIZED = {
    ord("T"): (4, "latin"), ord("U"): (1, "latin"), ord("B"): (4, "bytes"), ord("C"): (1, "bytes"), 0x8E: (8, "bytes"),
    0x96: (8, "bytes"), ord("X"): (4, "utf8"), 0x8C: (1, "utf8"), 0x8D: (8, "utf8"),
}  # fmt: skip
_LONGS = {0x8A: 1, 0x8B: 4}
_PUTS = {ord("q"): 1, ord("r"): 4}
_GETS = {ord("h"): 1, ord("j"): 4}
_REFUSED = {
    ord("I"): "INT", ord("L"): "LONG", ord("F"): "FLOAT", ord("S"): "STRING", ord("V"): "UNICODE", ord("P"): "PERSID",
    ord("i"): "INST", ord("o"): "OBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER", ord("p"): "PUT", ord("g"): "GET",
}  # fmt: skip
#: Names of the methods for all other opcodes, without the leading underscore.
_METHODS = {
    0x80: "proto", 0x95: "frame", ord("("): "mark", ord("0"): "drop", ord("1"): "pop_mark", ord("2"): "duplicate",
    0x94: "memoize", ord("G"): "binfloat", ord("t"): "tuple", ord("l"): "list", ord("d"): "dict", 0x91: "frozenset",
    ord("a"): "append", ord("e"): "appends", ord("s"): "setitem", ord("u"): "setitems", 0x90: "additems",
    ord("c"): "global", 0x93: "stack_global", ord("R"): "reduce", 0x81: "reduce", 0x92: "newobj_ex", ord("b"): "build",
    ord("Q"): "binpersid",
}  # fmt: skip
_FAULTS = (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error)


class PickleMachine:
    """Reads one pickle from a window.

    Args:
        window: Bytes of the pickle.
        resolve: ``(module, name) -> Allowed`` or an inert value; raises :class:`RefusedError` for anything else.
        budget: Shared limits.
        persistent: Function that turns a persistent id into a record; ``None`` refuses persistent ids.
    """

    def __init__(
        self,
        window: Window,
        resolve: Callable[[str, str], Any],
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._window, self._resolve, self._budget, self._persistent = window, resolve, budget, persistent
        self._position = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self, start: int = 0) -> tuple[Any, int]:
        """Runs from ``start`` to STOP.

        Returns:
            ``(value, position after STOP)``.

        Raises:
            UserError: The pickle is cut off, damaged, too large, or (:class:`RefusedError`) outside the allow-list.
        """
        self._position = start
        try:
            while (opcode := self._read(1)[0]) != ord("."):
                self._budget.spend(1)
                if len(self._stack) > MAX_STACK or len(self._marks) > MAX_MARKS:
                    raise RefusedError("it makes far more objects than any network has")
                self._step(opcode)
            return self._pop(), self._position
        except EOFError:
            fault = f"cut off: a value at byte {self._position} goes beyond the {self._window.length} bytes there"
            raise UserError("", fault, "download it again") from None
        except _FAULTS as error:
            raise UserError("", f"damaged pickle at byte {self._position} ({inert.brief_error(error)})") from None

    def _step(self, opcode: int) -> None:
        """Executes one opcode."""
        if opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _SIZED:
            self._stack.append(self._sized(*_SIZED[opcode]))
        elif opcode in _PUTS:
            self._memo[int.from_bytes(self._read(_PUTS[opcode]), "little")] = self._stack[-1]
        elif opcode in _GETS:
            self._stack.append(self._memo[int.from_bytes(self._read(_GETS[opcode]), "little")])
        elif opcode in _INTEGERS:
            form = _INTEGERS[opcode]
            self._stack.append(struct.unpack(form, self._read(struct.calcsize(form)))[0])
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            if len(self._stack) < count:
                raise IndexError("stack underflow")
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif opcode in _EMPTY:
            self._budget.spend(STEPS_PER_CALL * (_EMPTY[opcode] is set))
            self._stack.append(_EMPTY[opcode]())
        elif opcode in _LONGS:
            self._stack.append(self._long(_LONGS[opcode]))
        elif opcode in _REFUSED:
            raise RefusedError(f"it uses the opcode {_REFUSED[opcode]}")
        elif opcode in _METHODS:
            getattr(self, f"_{_METHODS[opcode]}")()
        else:
            raise ValueError(f"no such opcode 0x{opcode:02x}; not a pickle, or damaged")

    def _read(self, length: int) -> bytes:
        data = self._window.read_at(self._position, length)
        self._position += length
        return data

    def _sized(self, width: int, kind: str) -> Any:
        length = int.from_bytes(self._read(width), "little")
        if length > self._window.length - self._position:
            raise EOFError
        if kind != "utf8" and length > INLINE_BYTES:
            part = self._window.part(self._position, length)
            self._position += length
            return part
        self._budget.text_bytes -= length
        if self._budget.text_bytes < 0:
            raise RefusedError(f"it holds more than {MAX_TEXT >> 20} MiB of text")
        data = self._read(length)
        if kind == "bytes":
            return data
        return data.decode("latin-1") if kind == "latin" else data.decode("utf-8", "surrogatepass")

    def _long(self, width: int) -> int:
        length = int.from_bytes(self._read(width), "little")
        if length > MAX_INTEGER_BYTES:
            raise RefusedError(f"it holds an integer of {length} bytes")
        return int.from_bytes(self._read(length), "little", signed=True)

    def _line(self) -> str:
        data = bytearray()
        while (byte := self._read(1)) != b"\n":
            data += byte
            if len(data) > MAX_LINE:
                raise ValueError("a name without end")
        return data.decode("utf-8")

    # Stack

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _drop(self) -> None:
        self._stack.pop() if self._stack else self._pop_mark()

    def _duplicate(self) -> None:
        self._stack.append(self._stack[-1])

    def _proto(self) -> None:
        protocol = self._read(1)[0]
        if not 2 <= protocol <= 5:
            raise ValueError(f"protocol {protocol}")

    def _frame(self) -> None:
        if int.from_bytes(self._read(8), "little") > self._window.length - self._position:
            raise EOFError

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _binfloat(self) -> None:
        self._stack.append(struct.unpack(">d", self._read(8))[0])

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _tuple(self) -> None:
        items = self._pop_mark()  # before the next line names the stack, which this replaces
        self._stack.append(tuple(items))

    def _list(self) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _dict(self) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._put_items(items)

    def _frozenset(self) -> None:
        items = self._pop_mark()
        self._stack.append(frozenset(map(checked_key, items)))

    def _append(self) -> None:
        item = self._pop()
        inert.expect_type(self._stack[-1], list).append(item)

    def _appends(self) -> None:
        items = self._pop_mark()
        inert.expect_type(self._stack[-1], list).extend(items)

    def _setitem(self) -> None:
        value = self._pop()
        self._put_items([self._pop(), value])

    def _setitems(self) -> None:
        self._put_items(self._pop_mark())

    def _additems(self) -> None:
        items = self._pop_mark()
        inert.expect_type(self._stack[-1], set).update(map(checked_key, items))

    def _put_items(self, items: list[Any]) -> None:
        target = inert.expect_type(self._stack[-1], dict)
        if len(items) % 2:
            raise ValueError("a key without value")
        for key, value in zip(items[::2], items[1::2]):
            target[checked_key(key)] = value

    def _global(self) -> None:
        module = self._line()
        self._stack.append(self._resolve(module, self._line()))

    def _stack_global(self) -> None:
        name = inert.expect_type(self._pop(), str)
        module = inert.expect_type(self._pop(), str)
        self._stack.append(self._resolve(module, name))

    def _reduce(self) -> None:
        args = inert.expect_type(self._pop(), tuple)
        self._call(self._pop(), args)

    def _newobj_ex(self) -> None:
        if inert.expect_type(self._pop(), dict):
            raise RefusedError("it makes an object with keyword arguments")
        self._reduce()

    def _call(self, function: Any, args: tuple[Any, ...]) -> None:
        if not isinstance(function, Allowed):
            raise RefusedError(f"it calls {inert.describe_value(function)}")
        self._budget.spend(STEPS_PER_CALL)
        self._budget.spend_on(args)
        try:
            self._stack.append(function.make(*args))
        except _FAULTS as error:
            raise ValueError(f"{function.name}: {inert.brief_error(error)}") from None

    def _build(self) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, InertObject):
            self._budget.spend_on(state if isinstance(state, tuple) else ())
            target.set_state(state)
        elif not (isinstance(target, dict) and isinstance(state, dict)):
            # Attributes of a dictionary (in which torch keeps version numbers) are not needed.
            raise RefusedError(f"it sets the state of {inert.describe_value(target)}")

    def _binpersid(self) -> None:
        if self._persistent is None:
            raise RefusedError("it refers to data outside the file")
        self._stack.append(self._persistent(self._pop()))
