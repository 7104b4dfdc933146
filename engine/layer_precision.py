"""What became of every layer, as an engine's manifest has it: who runs in INT8, who does not, and why.

A manifest's ``layers`` are dictionaries with ``name`` ("stage/layer"), ``type``, ``precision`` ("int8", "f32", "bf16",
"unknown"), ``kernel``, ``macs`` and, of an INT8 engine's layers that are not INT8, ``reason``: one of ``REASONS``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

KEPT, BRANCH, COMPUTED_WEIGHTS, FELL_BACK = "kept float", "side branch", "computed weights", "fell back"
#: What each reason means, for people.
REASONS = {
    KEPT: "kept in float by --keep-float",
    BRANCH: "weights channels or mixes kernels, of one pixel: INT8 gains nothing there, its noise goes everywhere",
    COMPUTED_WEIGHTS: "its weights are computed in the graph, so that they have no scale; export folds constant ones",
    FELL_BACK: "fell back: it was quantised, and the runtime runs it in float all the same",
}


def explain(
    layers: Iterable[Mapping[str, Any]], placed: Collection[str], kept: Collection[str], branches: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The layers of an INT8 engine with ``reason`` where one is not INT8.

    Args:
        layers: what the backend read back from the compiled model.
        placed: names of the layers that were quantised. One that the backend does not know is added, without MACs:
            what cannot be found may not count as INT8.
        kept: names of those that were to stay float.
        branches: names of those that are never quantized, because they stand on a side branch.
    """
    explained = [dict(layer) for layer in layers]
    for layer in explained:
        if layer["precision"] == "int8":
            continue
        name = layer["name"]
        reasons = {KEPT: kept, BRANCH: branches, FELL_BACK: placed}
        layer["reason"] = next((reason for reason, names in reasons.items() if name in names), COMPUTED_WEIGHTS)
    found = {layer["name"] for layer in explained}
    missing = {"type": "unknown", "precision": "unknown", "kernel": "", "macs": 0, "reason": FELL_BACK}
    return explained + [{"name": name, **missing} for name in placed if name not in found]


def int8_mac_share(layers: Sequence[Mapping[str, Any]]) -> float:
    """The part of all MACs that runs in INT8, 0 .. 1."""
    total = sum(layer["macs"] for layer in layers)
    return sum(layer["macs"] for layer in layers if layer["precision"] == "int8") / total if total else 0.0


def float_layers(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The layers of an INT8 engine that are not INT8, most MACs first."""
    return sorted((layer for layer in layers if layer["precision"] != "int8"), key=lambda layer: -layer["macs"])


def fell_back(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The layers that were quantised and do not run in INT8, most MACs first. Of a good engine, none."""
    return [layer for layer in float_layers(layers) if layer.get("reason") == FELL_BACK]


def stage(layer: Mapping[str, Any]) -> str:
    """ "backbone", "neck", "rpn", "box" or "densepose"."""
    return str(layer["name"]).split("/")[0]
