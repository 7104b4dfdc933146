"""``densepose-engine inspect``: what an engine file says of itself and of every layer, without any runtime."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..engine_file import read_manifest
from ..errors import EngineFileError
from ..layer_precision import REASONS, fell_back, float_layers, int8_mac_share, stage
from ..terminal import megabytes, percent, printable

NAME = "inspect"
HELP = "what an engine is: architecture, input, origin, sizes, and what every layer runs as"
_LABEL = 16  # columns


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", type=Path, metavar="ENGINE")
    parser.add_argument(
        "--json",
        action="store_true",
        help="the whole manifest as JSON, with int8_mac_share: the part of all multiply-accumulates that runs in INT8",
    )


def run(arguments: Namespace) -> int:
    manifest = read_manifest(arguments.engine)
    layers = read_layers(manifest["model"], arguments.engine)
    if arguments.json:
        share = {} if layers is None else {"int8_mac_share": int8_mac_share(layers)}
        print(json.dumps({**manifest, **share}, indent=2))
        return 0
    print(printable(arguments.engine))
    for label, value in summary(manifest):
        print(f"  {label:{_LABEL}}{printable(value)}")
    if layers:
        for line in layer_lines(layers, quantised=manifest["precision"] == "int8"):
            print(printable(line))
    return 0


def read_layers(model: Mapping[str, Any], path: Path) -> list[dict[str, Any]] | None:
    """The layers in a manifest's ``model``, checked; None where it has none. Raises ``EngineFileError``."""
    layers = model.get("layers")
    if layers is None:
        return None
    texts = ("name", "type", "precision", "kernel")
    if not isinstance(layers, list) or not all(
        isinstance(layer, dict)
        and all(isinstance(layer.get(key), str) for key in texts)
        and type(layer.get("macs")) is int
        and layer["macs"] >= 0
        for layer in layers
    ):
        raise EngineFileError(f"{path}: its manifest does not describe its layers; build it again")
    return layers


def summary(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Labels and values for people. Of an engine that lacks something, what is there."""
    model = manifest["model"]
    yield "architecture", str(model.get("architecture", "?"))
    if "input" in model:
        yield "input", _input(_mapping(model["input"]))
    yield "precision", manifest["precision"]
    runtime = ", ".join(f"{name} {version}" for name, version in manifest["runtime"].items())
    yield "backend", f"{manifest['backend']} (built with {runtime or 'unknown versions'})"
    for label in ("defaults", "capacity"):
        values = _mapping(model.get(label))
        if values:
            yield label, ", ".join(f"{name} {value}" for name, value in values.items())
    if "maps" in model:
        yield "maps", ", ".join(map(str, model["maps"])) if isinstance(model["maps"], list) else str(model["maps"])
    for label, value in _mapping(model.get("provenance")).items():
        yield f"from {label}", _flat(value)
    int8 = _mapping(model.get("int8"))
    if int8:
        yield "quantised", _quantised(int8)
    sizes = {name: entry["size"] for name, entry in manifest["payload"].items()}
    members = ", ".join(f"{name} {megabytes(size)}" for name, size in sizes.items())
    yield "payload", f"{megabytes(sum(sizes.values()))} ({members})"
    counted = _mapping(model.get("layers_counted_for"))
    if counted:
        image, boxes = counted.get("image"), counted.get("box")
        size = "x".join(map(str, image)) if isinstance(image, list) else "?"
        yield "MACs are for", f"a picture of {size}, {boxes} proposals and {counted.get('densepose')} people"


def layer_lines(layers: Sequence[Mapping[str, Any]], quantised: bool) -> Iterator[str]:
    """Stages, then layers; of an INT8 engine (``quantised``) also its share of MACs and who is not INT8, and why.

    Args:
        layers: at least one, as ``read_layers`` gives them.
    """
    total = max(sum(layer["macs"] for layer in layers), 1)
    width = max(len(layer["name"]) for layer in layers)
    if quantised:
        yield ""
        share = int8_mac_share(layers)
        in_float = float_layers(layers)
        yield f"  {percent(share)} of {total / 1e9:.2f} GMAC run in INT8, {len(layers) - len(in_float)} of " + (
            f"{len(layers)} layers" + ("; in float:" if in_float else "")
        )
        for layer in in_float:
            reason = str(layer.get("reason", "not said; build it again with this version"))
            yield (
                f"    {layer['name']:{width}}  {layer['macs'] / 1e6:9.2f} MMAC {100 * layer['macs'] / total:6.2f}%  "
                f"{layer['precision']}  {REASONS.get(reason, reason)}"
            )
        if lost := fell_back(layers):
            yield f"  {len(lost)} of them should run in INT8 and do not: please report it with this list"
    yield ""
    yield f"  {'stage':10}{'layers':>8}{'GMAC':>9}{'share':>8}  precisions"
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        by_stage.setdefault(stage(layer), []).append(layer)
    for name, members in by_stage.items():
        macs = sum(layer["macs"] for layer in members)
        precisions = Counter(str(layer["precision"]) for layer in members).most_common()
        yield f"  {name:10}{len(members):8}{macs / 1e9:9.3f}{100 * macs / total:7.1f}%  " + ", ".join(
            f"{precision} {number}" for precision, number in precisions
        )
    yield ""
    yield f"  {'layer':{width}}  precision      MMAC   share  kernel"
    for layer in layers:
        yield (
            f"  {layer['name']:{width}}  {layer['precision']:9}{layer['macs'] / 1e6:10.2f}"
            f"{100 * layer['macs'] / total:7.2f}%  {layer['kernel']}"
        )


def _quantised(int8: Mapping[str, Any]) -> str:
    calibration = _mapping(int8.get("calibration"))
    weights = "rounded with input statistics" if int8.get("adapted_weights") else "rounded to the nearest"
    return (
        f"observer {int8.get('observer', '?')}, weights {weights}, calibrated on {calibration.get('pictures', '?')} "
        f"pictures with {calibration.get('people', '?')} people"
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _input(values: Mapping[str, Any]) -> str:
    size = values.get("size")
    if isinstance(size, list):
        return f"{'x'.join(map(str, size))} (height x width), pictures are scaled to fit and padded"
    return (
        f"dynamic, shorter side {values.get('min_size', '?')}, longer side at most {values.get('max_size', '?')}, "
        f"padded to multiples of {values.get('divisor', '?')}"
    )


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
