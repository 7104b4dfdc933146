"""The engine file, at the address that it had before ``model.engine_file``."""

from __future__ import annotations

from .model.engine_file import EngineFile, read_engine_file, read_manifest, write_engine_file

__all__ = ["EngineFile", "read_engine_file", "read_manifest", "write_engine_file"]
