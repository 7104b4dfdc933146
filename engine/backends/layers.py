"""What became of a graph's layers: the one precision table, whichever vendor compiled it.

A layer that was meant for INT8 and silently fell back to float shows here and nowhere else.
"""

from __future__ import annotations

from ..model.compiled import Layer

__all__ = ["Layer"]
