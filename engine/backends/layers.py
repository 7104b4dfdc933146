"""What became of a graph's layers: the one precision table, whichever vendor compiled it.

A layer that was meant for INT8 and silently fell back to float shows here and nowhere else.
"""

from __future__ import annotations

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
