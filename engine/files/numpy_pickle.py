"""What stands in for numpy's names in a pickle: arrays are views of bytes that the file really holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .pickle_reader import Budget, Builder, Global, Opaque, PickleError

_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_MAX_DIMENSIONS = 32
_DICT_ENTRY_BYTES = 100  # about, in memory


class PickledDtype:
    """A plain number type; its state carries the byte order."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code not in _DTYPES:
            raise PickleError("it holds arrays of something else than plain numbers")
        self._code, self._order = code, "<"

    def set_state(self, state: object) -> None:
        """Takes ``(version, byte order, subtype, names, fields, ...)`` of a dtype without subtype and fields."""
        match state:
            case (int(), "<" | ">" | "=" | "|" as order, None, None, None, *_):
                self._order = order
            case _:
                raise PickleError("it holds arrays of something else than plain numbers")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class PickledArray:
    """An array that gets its contents from its state, as numpy's own pickles do it."""

    def __init__(self, budget: Budget, array: np.ndarray | None = None) -> None:
        self._budget, self._array = budget, array

    def set_state(self, state: object) -> None:
        """Takes ``(version, shape, dtype, is Fortran order, bytes)``."""
        match state:
            case (int(), tuple() as shape, PickledDtype() as kind, bool() | int() as fortran, bytes() | str() as data):
                self._array = _array(_bytes(data, self._budget), kind, shape, "F" if fortran else "C")
            case _:
                raise PickleError("it holds an array whose state is not one of numpy's")

    @property
    def array(self) -> np.ndarray:
        """A read-only view of the pickle's bytes, in the byte order of the file."""
        if self._array is None:
            raise PickleError("it holds an array without contents")
        return self._array


def _bytes(data: bytes | str, budget: Budget) -> bytes:
    """Python 2 has no bytes of its own: its pickles hold text, one character per byte."""
    if isinstance(data, bytes):
        return data
    budget.spend(len(data))
    return data.encode("latin-1")


def _array(data: bytes | bytearray, kind: PickledDtype, shape: tuple[Any, ...], order: str) -> np.ndarray:
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise PickleError("it holds an array with an impossible shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise PickleError(f"it declares an array of shape {shape} and holds {len(data)} bytes for it")
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(arguments: tuple[Any, ...], budget: Budget) -> PickledArray:
    # numpy makes an empty array first and fills it by its state; the shape in here is not believed.
    if not arguments or arguments[0] != Global("numpy", "ndarray"):
        raise PickleError("it holds arrays of another class than numpy.ndarray")
    return PickledArray(budget)


def _scalar(arguments: tuple[Any, ...], budget: Budget) -> PickledArray:
    match arguments:
        case (PickledDtype() as kind, bytes() | str() as data):
            return PickledArray(budget, _array(_bytes(data, budget), kind, (), "C"))
        case _:
            raise PickleError("it holds a scalar that is not one of numpy's numbers")


def _frombuffer(arguments: tuple[Any, ...], budget: Budget) -> PickledArray:
    match arguments:
        case (bytes() | bytearray() as data, PickledDtype() as kind, tuple() as shape, "C" | "F" as order):
            return PickledArray(budget, _array(data, kind, shape, order))
        case _:
            raise PickleError("it holds an array whose buffer is not one of numpy's")


def _dtype(arguments: tuple[Any, ...], budget: Budget) -> PickledDtype:
    return PickledDtype(arguments[0] if arguments else None)


def _encode(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    """``_codecs.encode``: how Python 3 writes bytes in protocol 2."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            return _bytes(text, budget)
        case _:
            raise PickleError("it calls _codecs.encode in another way than for bytes")


def _empty_bytes(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    if arguments:
        raise PickleError("it calls bytes() with arguments")
    return b""


def _refuse_call(arguments: tuple[Any, ...], budget: Budget) -> Opaque:
    raise PickleError("it calls numpy.ndarray")


def ordered_dict(arguments: tuple[Any, ...], budget: Budget) -> dict[str, Any]:
    """``collections.OrderedDict``, empty or, from Python 2, with a list of pairs."""
    match arguments:
        case ():
            return {}
        case (list() as pairs,) if all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            if all(isinstance(key, str) for key, _ in pairs):
                budget.spend(_DICT_ENTRY_BYTES * len(pairs))
                return dict(pairs)
    raise PickleError("it calls OrderedDict in another way than with named values")


_CORE = ("numpy.core", "numpy._core")  # the same modules before and since numpy 2

NUMPY_BUILDERS: Mapping[tuple[str, str], Builder] = {
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in _CORE},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in _CORE},
    ("numpy", "ndarray"): _refuse_call,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _empty_bytes,
    ("__builtin__", "bytes"): _empty_bytes,
    ("collections", "OrderedDict"): ordered_dict,
}
