"""An interpreter of pickles that builds plain containers and calls nothing: what a file names is looked up in a table.

The opcodes are those that picklers write for containers, numbers and strings, in protocols 2 to 5 (Python's
pickletools describes each). Every other is refused by name, and so is every global that is not in the table given.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pickletools import opcodes
from typing import Any

import numpy as np

from ..core import checks

Array = np.ndarray
NAMES = {ord(opcode.code): opcode.name for opcode in opcodes}
LONGEST_NUMBER = 64  # bytes of an integer
LONGEST_NAME = 1000  # bytes of a module or of what is in it


class Global:
    """What a pickle may name: `call` makes what a REDUCE stands for, out of its arguments; None is an inert marker."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.call = call


class Scripted:
    """An object of a TorchScript archive: its attributes, and nothing of its class."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = {}


class Unnamed:
    """A key of a dict that no name is made of, such as a tuple: never hashed, since its depth is the file's choice."""


class Buildable:
    """What takes a BUILD of its own."""

    def build(self, state: Any) -> None:
        raise NotImplementedError


class Machine:
    """The interpreter's stack and memo over the bytes of a file."""

    def __init__(
        self, data: Array, find: Callable[[str, str], Any], load: Callable[[Any], Any] | None = None, start: int = 0
    ) -> None:
        """`find` gives what a module and a name stand for, `load` what a persistent id does; both raise ValueError."""
        self.data = data
        self.find = find
        self.load = load
        self.at = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value of the pickle that begins here; `at` is behind it afterwards."""
        while True:
            code = self.take(1)[0]
            if code == STOP:
                value = self.pop()
                self.stack, self.marks, self.memo = [], [], {}
                return value
            action = ACTIONS.get(code)
            if action is None:
                raise ValueError(f"its pickle has the opcode {NAMES.get(code, hex(code))!r}, which is not run")
            action(self)

    # --- bytes

    def take(self, size: int) -> bytes:
        """The next bytes of the file."""
        if size > len(self.data) - self.at:
            raise ValueError("its pickle ends too early")
        self.at += size
        return self.data[self.at - size : self.at].tobytes()

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """Text up to the end of the line."""
        found = self.data[self.at : self.at + LONGEST_NAME].tobytes()
        end = found.find(b"\n")
        if end < 0:
            raise ValueError("its pickle has a name without an end")
        self.at += end + 1
        return found[:end].decode("utf-8")

    # --- stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes more from the stack than is there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_mark(self) -> list[Any]:
        """What is above the last mark."""
        if not self.marks:
            raise ValueError("its pickle has no mark where one is needed")
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("its pickle recalls what it has not kept")
        self.push(self.memo[index])

    # --- containers

    def push_tuple(self, size: int) -> None:
        found = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(found)))

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError(f"its pickle appends to {checks.kind(target)!r}")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(values) % 2:
            raise ValueError(f"its pickle sets items of {checks.kind(target)!r}")
        for key, value in zip(values[::2], values[1::2]):
            target[key if type(key) in (str, int, float, bool, type(None)) else Unnamed()] = value

    def push_number(self, size: int) -> None:
        if size > LONGEST_NUMBER:
            raise ValueError(f"its pickle has an integer of {checks.digits(size)} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    # --- globals

    def push_global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle has a global that no string names")
        self.push(self.find(module, name))

    def push_stack_global(self) -> None:
        name = self.pop()
        self.push_global(self.pop(), name)

    def reduce(self) -> None:
        """Make what a global of the table and its arguments stand for."""
        arguments, known = self.pop(), self.pop()
        if not isinstance(known, Global) or known.call is None or type(arguments) is not tuple:
            called = known.name if isinstance(known, Global) else checks.kind(known)
            raise ValueError(f"its pickle calls {called!r}")
        try:
            self.push(known.call(*arguments))
        except TypeError:
            raise ValueError(f"its pickle has arguments that {known.name!r} does not take") from None

    def new_object(self) -> None:
        """An empty object of a class of TorchScript."""
        arguments, known = self.pop(), self.pop()
        if known is not Scripted or arguments != ():
            raise ValueError(f"its pickle makes an object of {getattr(known, 'name', checks.kind(known))!r}")
        self.push(Scripted())

    def build(self) -> None:
        """Set an object's state; that of a dict, such as torch's `_metadata`, belongs to none of its entries."""
        state, target = self.pop(), self.top()
        if isinstance(target, Scripted):
            target.state = state
        elif isinstance(target, Buildable):
            target.build(state)
        elif type(target) is not dict:
            raise ValueError(f"its pickle sets the state of {checks.kind(target)!r}")

    def push_persistent(self) -> None:
        if self.load is None:
            raise ValueError("its pickle refers to what is not in it")
        self.push(self.load(self.pop()))


def protocol(machine: Machine) -> None:
    version = machine.unsigned(1)
    if version > 5:
        raise ValueError(f"its pickle is of protocol {version}, of at most 5")


def text(size: int) -> Callable[[Machine], None]:
    """Strings whose length is held in `size` bytes."""
    return lambda machine: machine.push(machine.take(machine.unsigned(size)).decode("utf-8", "surrogatepass"))


def old_text(size: int) -> Callable[[Machine], None]:
    """Strings of Python 2, which may be text or bytes: one character for each byte."""
    return lambda machine: machine.push(machine.take(machine.unsigned(size)).decode("latin-1"))


def raw(size: int) -> Callable[[Machine], None]:
    return lambda machine: machine.push(machine.take(machine.unsigned(size)))


STOP = ord(".")
ACTIONS: dict[int, Callable[[Machine], Any]] = {
    ord(code): action
    for code, action in {
        "\x80": protocol,
        "\x95": lambda m: m.take(8),  # FRAME: how many bytes follow, for those who read ahead
        "(": lambda m: m.marks.append(len(m.stack)),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "K": lambda m: m.push(m.unsigned(1)),
        "M": lambda m: m.push(m.unsigned(2)),
        "J": lambda m: m.push_number(4),
        "\x8a": lambda m: m.push_number(m.unsigned(1)),
        "\x8b": lambda m: m.push_number(m.unsigned(4)),
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "T": old_text(4),
        "U": old_text(1),
        "X": text(4),
        "\x8c": text(1),
        "\x8d": text(8),
        "B": raw(4),
        "C": raw(1),
        "\x8e": raw(8),
        "\x96": raw(8),
        "]": lambda m: m.push([]),
        "}": lambda m: m.push({}),
        ")": lambda m: m.push(()),
        "\x8f": lambda m: m.push([]),  # a set, whose items are not hashed
        "l": lambda m: m.push(m.pop_mark()),
        "t": lambda m: m.push(tuple(m.pop_mark())),
        "\x91": lambda m: m.push(tuple(m.pop_mark())),  # a frozen set
        "\x85": lambda m: m.push_tuple(1),
        "\x86": lambda m: m.push_tuple(2),
        "\x87": lambda m: m.push_tuple(3),
        "a": lambda m: m.append([m.pop()]),
        "e": lambda m: m.append(m.pop_mark()),
        "\x90": lambda m: m.append(m.pop_mark()),
        "s": lambda m: m.set_items([*reversed([m.pop(), m.pop()])]),
        "u": lambda m: m.set_items(m.pop_mark()),
        "q": lambda m: m.remember(m.unsigned(1)),
        "r": lambda m: m.remember(m.unsigned(4)),
        "\x94": lambda m: m.remember(len(m.memo)),
        "h": lambda m: m.recall(m.unsigned(1)),
        "j": lambda m: m.recall(m.unsigned(4)),
        "c": lambda m: m.push_global(m.line(), m.line()),
        "\x93": lambda m: m.push_stack_global(),
        "R": lambda m: m.reduce(),
        "\x81": lambda m: m.new_object(),
        "b": lambda m: m.build(),
        "Q": lambda m: m.push_persistent(),
    }.items()
}
