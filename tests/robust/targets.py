"""All targets of the fuzzer, and the inputs that are kept for each."""

from __future__ import annotations

import importlib
from pathlib import Path

from .counts import ROOT
from .target import Target

CORPUS = ROOT / "tests" / "robust" / "corpus"
#: Where each is, because a worker imports only its own: torch alone takes seconds.
_PLACES = {
    "checkpoint": ("targets_export", "Checkpoint"),
    "config": ("targets_export", "Config"),
    "graph": ("targets_build", "Graph"),
    "table": ("targets_build", "Table"),
    "table-contents": ("targets_build", "TableContents"),
    "calibration-state": ("targets_build", "CalibrationState"),
    "engine-container": ("targets_engine", "EngineContainer"),
    "engine-inspect": ("targets_engine", "EngineInspect"),
    "engine-manifest": ("targets_engine", "EngineManifest"),
    "engine-graph": ("targets_engine", "EngineGraph"),
    "cache-entries": ("targets_engine", "CacheEntries"),
    "picture": ("targets_media", "Pictures"),
    "video": ("targets_media", "Video"),
    "result": ("targets_media", "SavedResult"),
    "annotations": ("targets_media", "Annotations"),
    "infer-arguments": ("targets_arguments", "InferArguments"),
    "command-line": ("targets_arguments", "CommandLine"),
    "kernels": ("targets_arguments", "Kernels"),
}
NAMES = tuple(_PLACES)
#: Not attacked with the others.
_SELF_CHECK = {"self-check": ("targets_self_check", "SelfCheck")}


def target_class(name: str) -> type[Target]:
    """The target called ``name``."""
    module, class_name = {**_PLACES, **_SELF_CHECK}[name]
    found: type[Target] = getattr(importlib.import_module(f".{module}", __package__), class_name)
    assert found.name == name
    return found


def corpus(name: str) -> list[Path]:
    """Inputs that are always tried first, because they once failed."""
    folder = CORPUS / name
    return sorted(folder.iterdir()) if folder.is_dir() else []
