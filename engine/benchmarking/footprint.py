"""Load time and memory of an engine, measured in a process of its own: ``python -m`` this module runs one.

A process that has loaded other runtimes knows neither what an engine costs in memory nor how long a first load takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import InferenceError

_FRAMES = 20
_SIZE = (480, 640)


def footprint(engine: Path, *, device: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """What loading costs, first without and then with a cache of compiled graphs.

    Returns:
        ``cold`` and ``cached``, each with seconds (``import_s``, ``load_s`` with warm-up, ``first_frame_s``) and
        megabytes (``loaded_mb``: resident after loading, ``peak_mb``: the most until 20 frames were through).
    """
    with tempfile.TemporaryDirectory() as cache:
        cold = _in_process(engine, device, threads, cache)
        return {"cold": cold, "cached": _in_process(engine, device, threads, cache)}


def _in_process(engine: Path, device: str | None, threads: int | None, cache: str) -> dict[str, float]:
    options = json.dumps({"engine": os.fspath(engine), "device": device, "threads": threads, "cache": cache})
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__, options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InferenceError(f"{engine} does not load in a process of its own (exit {done.returncode}): {last}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def resident_mb() -> float:
    """Resident memory of this process now, in megabytes."""
    return _status("VmRSS")


def peak_mb() -> float:
    """The most that it ever was, since this program began (unlike getrusage's, which counts the parent's too)."""
    return _status("VmHWM")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _main(options: dict[str, Any]) -> dict[str, float]:
    begin = time.perf_counter()
    import numpy as np

    from ..engine import Engine

    imported = time.perf_counter()
    with Engine.load(
        options["engine"], device=options["device"], num_threads=options["threads"], cache_dir=options["cache"]
    ) as engine:
        loaded, loaded_mb = time.perf_counter(), resident_mb()
        frame = np.random.default_rng(0).integers(0, 256, (*_SIZE, 3), np.uint8)
        engine.infer(frame)
        first = time.perf_counter()
        for _ in range(_FRAMES - 1):
            engine.infer(frame)
    return {
        "import_s": imported - begin,
        "load_s": loaded - imported,
        "first_frame_s": first - loaded,
        "loaded_mb": loaded_mb,
        "peak_mb": peak_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(_main(json.loads(sys.argv[1]))))
