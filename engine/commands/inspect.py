"""``densepose-engine inspect``: what an engine file says of itself and of every layer, without any runtime."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..compile.layer_precision import REASONS, fell_back, float_layers, int8_mac_share
from ..decoders import DECODERS
from ..model.compiled import Int8Description, Layer
from ..model.decoder import DecoderDescription
from ..model.description import InputDescription
from ..model.engine_file import Manifest, read_manifest
from ..wording import megabytes, percent, printable

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
    layers = manifest.model.layers
    if arguments.json:
        share = {} if layers is None else {"int8_mac_share": int8_mac_share(layers)}
        print(json.dumps({**manifest.to_json(), **share}, indent=2))
        return 0
    print(printable(arguments.engine))
    for label, value in summary(manifest):
        print(f"  {label:{_LABEL}}{printable(value)}")
    if layers:
        for line in layer_lines(layers, quantised=manifest.precision == "int8"):
            print(printable(line))
    return 0


def summary(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Labels and values for people."""
    model = manifest.model
    content = model.to_json()
    yield "architecture", model.architecture
    yield "input", _input(model.input)
    yield "precision", manifest.precision
    runtime = ", ".join(f"{name} {version}" for name, version in manifest.runtime.items())
    yield "backend", f"{manifest.backend} (built with {runtime or 'unknown versions'})"
    for label in ("defaults", "capacity"):
        yield label, ", ".join(f"{name} {value}" for name, value in content[label].items())
    yield "maps", ", ".join(model.maps)
    yield "decoder", _decoder(model.decoder)
    for label, value in model.provenance.items():
        yield f"from {label}", _flat(value)
    if model.int8 is not None:
        yield "quantised", _quantised(model.int8)
    members = ", ".join(f"{name} {megabytes(member.size)}" for name, member in manifest.payload.items())
    yield "payload", f"{megabytes(sum(member.size for member in manifest.payload.values()))} ({members})"
    if (counted := model.layers_counted_for) is not None:
        boxes, people = counted.rows.get("box", "?"), counted.rows.get("densepose", "?")
        size = "x".join(map(str, counted.image))
        yield "MACs are for", f"a picture of {size}, {boxes} proposals and {people} people"


def layer_lines(layers: Sequence[Layer], quantised: bool) -> Iterator[str]:
    """Stages, then layers; of an INT8 engine (``quantised``) also its share of MACs and who is not INT8, and why.

    Args:
        layers: at least one.
    """
    total = max(sum(layer.macs for layer in layers), 1)
    width = max(len(layer.name) for layer in layers)
    if quantised:
        yield ""
        share = int8_mac_share(layers)
        in_float = float_layers(layers)
        yield f"  {percent(share)} of {total / 1e9:.2f} GMAC run in INT8, {len(layers) - len(in_float)} of " + (
            f"{len(layers)} layers" + ("; in float:" if in_float else "")
        )
        for layer in in_float:
            reason = layer.reason or "not said; build it again with this version"
            yield (
                f"    {layer.name:{width}}  {layer.macs / 1e6:9.2f} MMAC {100 * layer.macs / total:6.2f}%  "
                f"{layer.precision}  {REASONS.get(reason, reason)}"
            )
        if lost := fell_back(layers):
            yield f"  {len(lost)} of them should run in INT8 and do not: please report it with this list"
    yield ""
    yield f"  {'stage':10}{'layers':>8}{'GMAC':>9}{'share':>8}  precisions"
    by_stage: dict[str, list[Layer]] = {}
    for layer in layers:
        by_stage.setdefault(layer.stage, []).append(layer)
    for name, members in by_stage.items():
        macs = sum(layer.macs for layer in members)
        precisions = Counter(layer.precision for layer in members).most_common()
        yield f"  {name:10}{len(members):8}{macs / 1e9:9.3f}{100 * macs / total:7.1f}%  " + ", ".join(
            f"{precision} {number}" for precision, number in precisions
        )
    yield ""
    yield f"  {'layer':{width}}  precision      MMAC   share  kernel"
    for layer in layers:
        yield (
            f"  {layer.name:{width}}  {layer.precision:9}{layer.macs / 1e6:10.2f}"
            f"{100 * layer.macs / total:7.2f}%  {layer.kernel}"
        )


def _decoder(description: DecoderDescription) -> str:
    try:
        return DECODERS[description.kind].summary(description)
    except (KeyError, ValueError):  # of another version, or damaged: whoever loads it is told
        return f"{description.kind}, which this version does not know"


def _quantised(int8: Int8Description) -> str:
    weights = "rounded with input statistics" if int8.adapted_weights else "rounded to the nearest"
    return (
        f"observer {int8.observer}, weights {weights}, calibrated on {int8.calibration.pictures} "
        f"pictures with {int8.calibration.people} people"
    )


def _input(network: InputDescription) -> str:
    if network.size is not None:
        return f"{'x'.join(map(str, network.size))} (height x width), pictures are scaled to fit and padded"
    return (
        f"dynamic, shorter side {network.min_size}, longer side at most {network.max_size}, "
        f"padded to multiples of {network.divisor}"
    )


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
