"""Compiling a graph with OpenVINO, or taking what was compiled before from the cache.

Not by OpenVINO's own cache (``CACHE_DIR``): it trusts what it finds, maps files that another process is still writing,
and changes the locale of the whole process meanwhile.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...model.engine_file import Member
from . import sections as openvino_sections
from .compiled_cache import CompiledCache, warn
from .device import CPU

#: Of every compiled section and stream: kernels that OpenVINO keeps for shapes that may come again, where a graph is
#: dynamic. Its default, 5000, is hundreds of megabytes.
_PRIMITIVES = "256"
_X86 = ("x86_64", "AMD64")
_ENVIRONMENT = ("ONEDNN_", "DNNL_", "OV_")  # variables that may change what is compiled begin so


@dataclass(frozen=True)
class Compiler:
    """Compiles the sections of one engine.

    ``cache`` and ``identity``: where compiled graphs are kept, and what distinguishes this engine on this machine from
    all others (``identity_of``); None: they are not.
    """

    core: Any
    cache: CompiledCache | None = None
    identity: Mapping[str, Any] | None = None

    def compile(self, model: Any, config: Mapping[str, Any], section: str) -> Any:
        """An ``openvino.CompiledModel``; ``section`` names ``model`` among the others of its engine."""
        config = {**_bounds(platform.machine()), **config}
        if self.cache is None or self.identity is None:
            return self.core.compile_model(model, CPU.name, config)
        key = {**self.identity, "section": section, "config": {name: str(value) for name, value in config.items()}}
        blob = self.cache.read(key)
        if blob is not None:
            try:
                return self.core.import_model(blob, CPU.name, config)
            except RuntimeError as error:
                warn(f"OpenVINO cannot import a compiled graph that it made, which is compiled again: {error}")
        compiled = self.core.compile_model(model, CPU.name, config)
        self._keep(key, compiled)
        return compiled

    def _keep(self, key: Mapping[str, Any], compiled: Any) -> None:
        assert self.cache is not None
        try:
            blob = compiled.export_model().getvalue()
        except RuntimeError:  # for want of memory, say: the next load takes longer
            return
        self.cache.write(key, blob)


def _bounds(machine: str) -> dict[str, str]:
    """On 64-bit Arm OpenVINO keeps no kernels by itself, and must not be told to: layers then compute other results,
    people at other places with good scores (tests/wheels sees it)."""
    return {"CPU_RUNTIME_CACHE_CAPACITY": _PRIMITIVES} if machine in _X86 else {}


def identity_of(core: Any, members: Mapping[str, Member], version: str, extension: Path) -> dict[str, Any]:
    """What a compiled graph depends on, beside its section and configuration.

    ``members``: of the engine's payload; ``version``: OpenVINO's, in full; ``extension``: our library of ops. OSError
    if one of our own files cannot be read.
    """
    graph = hashlib.sha256()
    for name in sorted(members):
        graph.update(hashlib.sha256(name.encode()).digest() + bytes.fromhex(members[name].sha256))
    return {
        "graph": graph.hexdigest(),
        "openvino": version,
        "ops": _file_hash(str(extension), extension.stat().st_mtime_ns),
        "cut by": hashlib.sha256(Path(openvino_sections.__file__).read_bytes()).hexdigest(),
        "processor": [
            str(core.get_property(CPU.name, name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        + [_processor_features()],
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)},
    }


@functools.lru_cache(maxsize=2)
def _file_hash(path: str, _changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _processor_features() -> str:
    """A hash of all that the system says of the first processor's abilities; a virtual machine may hide some."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return ""
    of_interest = ("model", "vendor_id", "cpu family", "stepping", "flags", "Features", "CPU ")
    return hashlib.sha256("\n".join(line for line in lines if line.startswith(of_interest)).encode()).hexdigest()
