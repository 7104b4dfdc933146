"""What becomes of a graph's maps: which decoder reads them, and the constant tensors that it needs beside them.

In a graph the tensors are initializers that no node reads (``decoder/NAME``); in an engine they stand one after
another, in the order of the description, in a member of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..files.fields import FieldError, Fields

#: The kind of decoder of a description that names none.
CHARTS = "charts"
#: Names of the tensors in a graph begin so.
PREFIX = "decoder/"
#: The member of an engine file that holds the tensors.
MEMBER = "decoder.bin"

_DTYPES = ("float32", "int32", "uint8")
_MOST_TENSORS = 1024
_MOST_RANK, _MOST_SIDE = 4, 1 << 28


@dataclass(frozen=True)
class TensorDescription:
    """A constant tensor: ``dtype`` is a numpy name, little-endian in files, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Of it, in bytes."""
        return int(np.dtype(self.dtype).itemsize) * math.prod(self.shape)

    @classmethod
    def from_json(cls, fields: Fields) -> TensorDescription:
        shape = fields.integers("shape", (1, _MOST_RANK), 1, _MOST_SIDE)
        return cls(fields.text("name"), fields.text("dtype", _DTYPES), shape)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class DecoderDescription:
    """The ``kind`` of a decoder, its ``tensors``, and its ``settings``, which the decoder itself judges."""

    kind: str = CHARTS
    tensors: tuple[TensorDescription, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Fields) -> DecoderDescription:
        tensors = tuple(map(TensorDescription.from_json, fields.rows("tensors", _MOST_TENSORS)))
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise FieldError(f"{fields.name('tensors')} has two of one name")
        return cls(fields.text("kind"), tensors, fields.plain_object("settings"))

    def to_json(self) -> dict[str, Any]:
        tensors = [tensor.to_json() for tensor in self.tensors]
        return {"kind": self.kind, "tensors": tensors, "settings": dict(self.settings)}

    def pack(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """The engine's member that holds ``arrays``, by name.

        Raises:
            ValueError: one of them is missing, or of another type or shape than is said.
        """
        parts = []
        for tensor in self.tensors:
            array = arrays.get(tensor.name)
            if array is None or array.shape != tensor.shape or array.dtype != np.dtype(tensor.dtype):
                given = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"the decoder's {tensor.name} is {given}, it must be {tensor.dtype} {tensor.shape}")
            parts.append(np.ascontiguousarray(array, np.dtype(tensor.dtype).newbyteorder("<")).tobytes())
        return b"".join(parts)

    def unpack(self, data: bytes) -> dict[str, np.ndarray]:
        """What ``pack`` was given; views into ``data``.

        Raises:
            ValueError: it has another size than the tensors have.
        """
        needed = sum(tensor.size for tensor in self.tensors)
        if len(data) != needed:
            raise ValueError(f"member {MEMBER} has {len(data)} bytes, its tensors have {needed}")
        arrays, begin = {}, 0
        for tensor in self.tensors:
            values = np.frombuffer(data, np.dtype(tensor.dtype).newbyteorder("<"), math.prod(tensor.shape), begin)
            arrays[tensor.name] = values.astype(tensor.dtype, copy=False).reshape(tensor.shape)
            begin += tensor.size
        return arrays
