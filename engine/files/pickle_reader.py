"""Reads a pickle as data: no name in it is ever imported and nothing in it is ever called.

A pickle is a program, and ``pickle.load`` runs it: importing, calling, allocating what it asks for. Here the standard
library's decoder (``pickletools.genops``) splits it into opcodes, and a small stack machine follows only those that
plain data consists of. A name stands for itself (:class:`Global`) until a *builder* from a fixed table makes plain data
of its arguments. Memory stays near the file's own size: no declared length is believed beyond the end of the file,
copies are counted against it, and the number of opcodes is limited.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

# A ResNet-101 checkpoint with its optimizer's state has some 100,000.
MAX_OPCODES = 1_000_000


class PickleError(ValueError):
    """The pickle asks for something that plain data has no need of; the message says what, and begins with "it"."""


class DamagedPickleError(PickleError):
    """The pickle is incomplete or was changed on its way: another copy may be good."""


@dataclass(frozen=True)
class Global:
    """A name from the pickle, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


class Opaque:
    """What an allowed name makes that is of no interest; it takes and forgets any state."""

    def set_state(self, state: object) -> None:
        """Forgets ``state``."""


@dataclass
class Budget:
    """Bytes that builders may still copy."""

    left: int

    def spend(self, count: int) -> None:
        """Raises :class:`PickleError` once more is copied than the file is long."""
        self.left -= count
        if self.left < 0:
            raise PickleError("it repeats its own data to take more memory than the file has bytes")


#: Makes plain data from the arguments that the pickle would pass to the name.
Builder = Callable[[tuple[Any, ...], Budget], Any]


class BoundedStream:
    """A binary stream that refuses to read, or to make room for, more bytes than are left."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self._left:
            raise DamagedPickleError("it is truncated")
        self._left -= count
        return self._stream.read(count)

    def readline(self) -> bytes:
        line = self._stream.readline(self._left)
        self._left -= len(line)
        return line

    def tell(self) -> int:
        return self._stream.tell()


_DAMAGES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError)
# Opcodes that push what stands in the pickle itself.
_LITERALS = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ]
)


@dataclass
class _Machine:
    builders: Mapping[tuple[str, str], Builder]
    persistent: Callable[[Any], Any] | None
    budget: Budget
    content: str
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise DamagedPickleError("its stack runs empty")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise DamagedPickleError(f"it has no {kind.__name__} where it needs one")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise DamagedPickleError("its stack runs empty")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise DamagedPickleError("it has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple that holds itself many times over takes exponential time.
            if not isinstance(key, str | int | float | None):
                raise PickleError(f"it has a {type(key).__name__} as a key")
            target[key] = value

    def reduce(self) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Global) or not isinstance(arguments, tuple):
            raise PickleError("it calls something that is not a name")
        self.stack.append(self.builders[name.module, name.name](arguments, self.budget))

    def build(self) -> None:
        state = self.pop()
        if not self.stack:
            raise DamagedPickleError("its stack runs empty")
        target = self.stack[-1]
        if isinstance(target, dict):
            return  # attributes of an OrderedDict: torch keeps its versions there
        if not hasattr(target, "set_state"):
            raise PickleError(f"it sets the state of a {type(target).__name__}")
        target.set_state(state)

    def push_global(self, module: Any, name: Any) -> None:
        found = Global(str(module), str(name))
        if (found.module, found.name) not in self.builders:
            raise PickleError(f"it asks for {found}, which no {self.content} needs")
        self.stack.append(found)

    def persistent_load(self) -> None:
        if self.persistent is None:
            raise PickleError("it refers to data outside of the file")
        self.stack.append(self.persistent(self.pop()))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("it asks for a name that is not text")
        self.push_global(module, name)

    def memo_get(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedPickleError("it refers to an object that it does not hold")
        self.stack.append(self.memo[index])

    def step(self, opcode: str, argument: Any) -> None:
        """Runs one opcode. What the opcodes do is written down in the standard library's ``pickletools``."""
        match opcode:
            case _ if opcode in _LITERALS:
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = self.top(object)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top(object)
            case "BINGET" | "LONG_BINGET" | "GET":
                self.memo_get(argument)
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                self.stack.append(tuple(self.pop_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(opcode[-1]))]
                self.stack.append(tuple(reversed(items)))
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "EMPTY_DICT":
                self.stack.append({})
            case "DICT":
                items = self.pop_mark()
                self.stack.append({})
                self.set_items(items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "EMPTY_LIST":
                self.stack.append([])
            case "LIST":
                self.stack.append(self.pop_mark())
            case "APPEND":
                item = self.pop()
                self.top(list).append(item)
            case "APPENDS":
                items = self.pop_mark()
                self.top(list).extend(items)
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(opcode == "NEWTRUE")
            case "GLOBAL":
                self.push_global(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                self.stack_global()
            case "REDUCE":
                self.reduce()
            case "BUILD":
                self.build()
            case "BINPERSID":
                self.persistent_load()
            case "POP":
                self.pop()
            case "PROTO" | "FRAME":
                pass
            case _:
                raise PickleError(f"it uses the opcode {opcode}, which no {self.content} needs")


def read_pickle(
    stream: IO[bytes],
    size: int,
    builders: Mapping[tuple[str, str], Builder],
    persistent: Callable[[Any], Any] | None = None,
    content: str = "checkpoint of weights",
) -> Any:
    """The object that a pickle of ``size`` bytes describes, made of plain data and what ``builders`` return.

    ``builders`` maps (module, name) to what stands in for that name; every other name is refused. ``persistent``
    resolves persistent ids; ``content`` is what messages call a good file. Python 2's byte strings become text, byte
    by byte (latin-1), as detectron2 reads them.

    Raises :class:`PickleError` for everything that is wrong with the pickle.
    """
    machine = _Machine(builders, persistent, Budget(size), content)
    bounded = cast(IO[bytes], BoundedStream(stream, size))  # has all that genops uses
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
            if count > MAX_OPCODES:
                raise PickleError(f"it has more than {MAX_OPCODES} opcodes, many more than a {content} needs")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except _DAMAGES as error:
        raise DamagedPickleError(f"it is damaged ({error!s:.200})") from error
    raise DamagedPickleError("it is truncated")
