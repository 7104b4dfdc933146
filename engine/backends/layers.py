"""What became of a graph's layers: the one precision table, whichever vendor compiled it.

A layer that was meant for INT8 and silently fell back to float shows here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Layer:
    """One layer of the compiled graph.

    ``precision`` is that of its inner loop ("int8", "f32", "f16", "bf16", "unknown"), ``kernel`` the vendor's name of
    what runs, ``macs`` multiply-accumulates for one picture of the nominal size.
    """

    name: str
    type: str
    precision: str
    kernel: str
    macs: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def int8_mac_share(layers: Iterable[Layer]) -> float:
    """The part of all MACs that runs in INT8, 0 .. 1."""
    layers = list(layers)
    total = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.precision == "int8") / total if total else 0.0
