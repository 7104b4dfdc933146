"""Typed access to JSON objects that come from anywhere: failures name the key, the value and what may stand there."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOST_TEXT = 1024  # characters
MOST_ENTRIES = 10_000
_MOST_DEPTH = 16
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class FieldError(ValueError):
    """A key is missing, or its value is of another type or out of range; the message names the dotted key."""


def _bounded_repr() -> reprlib.Repr:
    bounded = reprlib.Repr()
    bounded.maxlevel, bounded.maxlist, bounded.maxdict, bounded.maxstring, bounded.maxother = 3, 6, 6, 60, 60
    return bounded


_REPR = _bounded_repr()


def shown(value: object) -> str:
    """``repr`` for messages, of bounded length."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return f"a huge {type(value).__name__}"


class Fields:
    """The entries of one JSON object, each asked for with the type and the range that it must have.

    ``where`` is the dotted name of the object itself, "" for the outermost one. All methods raise ``FieldError``.
    """

    def __init__(self, data: object, where: str = "") -> None:
        self._where = where
        if not isinstance(data, Mapping):
            raise FieldError(f"{where or 'it'} is {shown(data)}, it must be an object")
        self._data: Mapping[str, Any] = data

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def name(self, key: str) -> str:
        """The dotted name of an entry."""
        return f"{self._where}.{key}" if self._where else key

    def refuse(self, key: str, wanted: str) -> FieldError:
        """The error for a value that is not what it must be."""
        return FieldError(f"{self.name(key)} is {shown(self._data.get(key))}, it must be {wanted}")

    def raw(self, key: str) -> Any:
        """The value, of any type."""
        if key not in self._data:
            raise FieldError(f"{self.name(key)} is missing")
        return self._data[key]

    def is_null(self, key: str) -> bool:
        """Whether the entry is missing or null."""
        return self._data.get(key) is None

    def integer(self, key: str, low: int, high: int) -> int:
        if not is_integer(value := self.raw(key)) or not low <= value <= high:
            raise self.refuse(key, f"an integer from {low} to {high}")
        return int(value)

    def number(self, key: str, low: float, high: float) -> float:
        if not is_number(value := self.raw(key)) or not low <= value <= high:
            raise self.refuse(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        if not isinstance(value := self.raw(key), bool):
            raise self.refuse(key, "true or false")
        return value

    def text(self, key: str, choices: Sequence[str] | None = None) -> str:
        value = self.raw(key)
        if choices is not None and value not in choices:
            raise self.refuse(key, f"one of {', '.join(choices)}")
        if not _is_text(value):
            raise self.refuse(key, f"a text of 1 to {MOST_TEXT} characters")
        return str(value)

    def sha256(self, key: str) -> str:
        if not isinstance(value := self.raw(key), str) or not _SHA256.fullmatch(value):
            raise self.refuse(key, "a SHA-256: 64 hexadecimal digits")
        return value

    def texts(self, key: str, least: int = 0, most: int = MOST_ENTRIES) -> tuple[str, ...]:
        value = self.raw(key)
        if not isinstance(value, list) or not least <= len(value) <= most or not all(map(_is_text, value)):
            raise self.refuse(key, f"a list of {least} to {most} texts of 1 to {MOST_TEXT} characters")
        return tuple(value)

    def integers(self, key: str, count: int | tuple[int, int], low: int, high: int) -> tuple[int, ...]:
        """A list of ``count`` (or from ``count[0]`` to ``count[1]``) integers."""
        least, most = count if isinstance(count, tuple) else (count, count)
        value = self.raw(key)
        good = isinstance(value, list) and least <= len(value) <= most
        if not good or not all(is_integer(one) and low <= one <= high for one in value):
            many = f"{least}" if least == most else f"{least} to {most}"
            raise self.refuse(key, f"a list of {many} integers from {low} to {high}")
        return tuple(value)

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        value = self.raw(key)
        good = isinstance(value, list) and len(value) == count
        if not good or not all(is_number(one) and low <= one <= high for one in value):
            raise self.refuse(key, f"a list of {count} numbers from {low:g} to {high:g}")
        return tuple(float(one) for one in value)

    def array(self, key: str, dtype: type, count: tuple[int, int], low: float, high: float) -> np.ndarray:
        """A long list as an array: int64 or float64 ``[n]`` with ``count[0] <= n <= count[1]``."""
        value = self.raw(key)
        kinds = (int,) if dtype is np.int64 else (int, float)
        if not isinstance(value, list) or not count[0] <= len(value) <= count[1]:
            raise self.refuse(key, f"a list of {count[0]} to {count[1]} numbers")
        if not all(type(one) in kinds for one in value):
            what = "integers" if kinds == (int,) else "numbers"
            raise FieldError(f"{self.name(key)} holds something else than {what}")
        # JSON's 1e999 is infinite, and 10 ** 400 fits no type: compared as Python compares them, before any conversion.
        wrong = next((one for one in value if not low <= one <= high), None)
        if wrong is not None:
            raise FieldError(f"{self.name(key)} holds {shown(wrong)}, it must be from {low:g} to {high:g}")
        return np.array(value, dtype)

    def section(self, key: str) -> Fields:
        """The entries of an object."""
        return Fields(self.raw(key), self.name(key))

    def sections(self, key: str, most: int = MOST_ENTRIES) -> dict[str, Fields]:
        """The objects in an object, by name."""
        value = self.raw(key)
        if not isinstance(value, Mapping) or len(value) > most or not all(map(_is_text, value)):
            raise self.refuse(key, f"an object of at most {most} entries")
        return {name: Fields(entry, f"{self.name(key)}.{name}") for name, entry in value.items()}

    def rows(self, key: str, most: int = MOST_ENTRIES) -> list[Fields]:
        """The objects in a list."""
        value = self.raw(key)
        if not isinstance(value, list) or len(value) > most:
            raise self.refuse(key, f"a list of at most {most} objects")
        return [Fields(entry, f"{self.name(key)}[{index}]") for index, entry in enumerate(value)]

    def plain(self, key: str) -> Any:
        """Whatever JSON stands there, which is only handed on or shown: finite numbers and bounded nesting."""
        value = self.raw(key)
        _check_plain(value, self.name(key), _MOST_DEPTH)
        return value

    def plain_object(self, key: str) -> Mapping[str, Any]:
        """As ``plain``, of an object."""
        if not isinstance(self.raw(key), Mapping):
            raise self.refuse(key, "an object")
        value: Mapping[str, Any] = self.plain(key)
        return value


def _check_plain(value: object, name: str, depth: int) -> None:
    if depth == 0:
        raise FieldError(f"{name} nests too deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inner, f"{name}.{str(key)[:60]}", depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, name, depth - 1)
    elif not (value is None or isinstance(value, str | bool) or is_number(value)):
        raise FieldError(f"{name} is {shown(value)}, it must be a finite number, a text, true, false or null")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_TEXT


def is_integer(value: object) -> bool:
    """Whether it is an ``int``, and no ``bool``."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite number that float64 can hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000
