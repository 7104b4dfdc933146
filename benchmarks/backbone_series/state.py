"""What is finished, as files in a folder that outlives every run: engines, and a JSON file for each row.

    STATE/a/320x448/spnasnet_100/fp32.engine, int8.engine, prepared.json, measured.json

A JSON file is written last and at once, so that it speaks only of what is there. Each carries what it depends on
("inputs"): one whose inputs are not those of today is stale, and done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from densepose_engine.files.output_files import atomic_output

from .networks import Network

PREPARED, MEASURED = "prepared", "measured"
PRECISIONS = ("fp32", "int8")


class State:
    """The folder of one ablation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, network: Network) -> Path:
        """Where everything about one network is."""
        return self.folder / network.key

    def engine(self, network: Network, precision: str) -> Path:
        return self.of(network) / f"{precision}.engine"

    def read(self, network: Network, kind: str) -> dict[str, Any] | None:
        """A row as it was written, whatever its age; None where there is none, or what is there is damaged."""
        try:
            row = json.loads((self.of(network) / f"{kind}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return row if isinstance(row, dict) else None

    def write(self, network: Network, kind: str, row: Mapping[str, Any]) -> None:
        with atomic_output(self.of(network) / f"{kind}.json") as path:
            path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")

    def current(self, network: Network, kind: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row, if it was made of these ``inputs`` and, of a prepared one, the engines are still what was built."""
        row = self.read(network, kind)
        if row is None or row.get("inputs") != json.loads(json.dumps(inputs)):
            return None
        if kind == PREPARED and not self._has_engines(network, row):
            return None
        return row

    def _has_engines(self, network: Network, row: Mapping[str, Any]) -> bool:
        try:
            found = {name: self.engine(network, name).stat().st_size for name in PRECISIONS}
        except OSError:
            return False
        return found == row.get("engine_bytes")


def digest(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over names (below ``root``) and bytes of files."""
    found = hashlib.sha256()
    for path in sorted(paths):
        data = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()
