"""What became of every layer, as an engine's manifest has it: who runs in INT8, who does not, and why.

Layers are ``model.compiled.Layer``; of an INT8 engine's layers that are not INT8, ``reason`` is one of ``REASONS``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ..model.compiled import Layer

KEPT, BRANCH, COMPUTED_WEIGHTS, FELL_BACK = "kept float", "side branch", "computed weights", "fell back"
#: What each reason means, for people.
REASONS = {
    KEPT: "kept in float by --keep-float",
    BRANCH: "weights channels or mixes kernels, of one pixel: INT8 gains nothing there, its noise goes everywhere",
    COMPUTED_WEIGHTS: "its weights are computed in the graph, so that they have no scale; export folds constant ones",
    FELL_BACK: "fell back: it was quantized, and the runtime runs it in float all the same",
}


def explain(
    layers: Iterable[Layer], placed: Collection[str], kept: Collection[str], branches: Collection[str] = ()
) -> list[Layer]:
    """The layers of an INT8 engine with ``reason`` where one is not INT8.

    Args:
        layers: what the backend read back from the compiled model.
        placed: names of the layers that were quantized. One that the backend does not know is added, without MACs:
            what cannot be found may not count as INT8.
        kept: names of those that were to stay float.
        branches: names of those that are never quantized, because they stand on a side branch.
    """
    reasons = {KEPT: kept, BRANCH: branches, FELL_BACK: placed}

    def reason(name: str) -> str:
        return next((reason for reason, names in reasons.items() if name in names), COMPUTED_WEIGHTS)

    explained = [one if one.precision == "int8" else replace(one, reason=reason(one.name)) for one in layers]
    found = {layer.name for layer in explained}
    missing = [name for name in placed if name not in found]
    return explained + [Layer(name, "unknown", "unknown", "", 0, FELL_BACK) for name in missing]


def int8_mac_share(layers: Sequence[Layer]) -> float:
    """The part of all MACs that runs in INT8, 0 .. 1."""
    total = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.precision == "int8") / total if total else 0.0


def float_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of an INT8 engine that are not INT8, most MACs first."""
    return sorted((layer for layer in layers if layer.precision != "int8"), key=lambda layer: -layer.macs)


def fell_back(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that were quantized and do not run in INT8, most MACs first. Of a good engine, none."""
    return [layer for layer in float_layers(layers) if layer.reason == FELL_BACK]
