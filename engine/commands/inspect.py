"""``densepose-engine inspect``: what an engine file says of itself, without any runtime."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..engine_file import read_manifest
from ..terminal import megabytes, printable

NAME = "inspect"
HELP = "what an engine is: architecture, input, precision, defaults, origin, sizes"
_LABEL = 16  # columns


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", type=Path, metavar="ENGINE")
    parser.add_argument("--json", action="store_true", help="the whole manifest as JSON")


def run(arguments: Namespace) -> int:
    manifest = read_manifest(arguments.engine)
    if arguments.json:
        print(json.dumps(manifest, indent=2))
        return 0
    print(printable(arguments.engine))
    for label, value in summary(manifest):
        print(f"  {label:{_LABEL}}{printable(value)}")
    return 0


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
    sizes = {name: entry["size"] for name, entry in manifest["payload"].items()}
    members = ", ".join(f"{name} {megabytes(size)}" for name, size in sizes.items())
    yield "payload", f"{megabytes(sum(sizes.values()))} ({members})"


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
