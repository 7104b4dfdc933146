"""What a figure was measured on, and what else the machine was doing: without it a time says little."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._core import isa

_CPU = Path("/sys/devices/system/cpu")
_FEW_RUNS_VARY = 0.1  # coefficient of variation
_DRIFT = 0.05
_OTHER_LOAD = 0.1  # of one core
_CLOCK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _read(path: Path | str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _cpu_name() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()
    board = (_read("/proc/device-tree/model") or "").rstrip("\0")
    return board or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def power_mode() -> str:
    """The frequency governor, and the platform's power profile where there is one; "unknown" in most containers."""
    governors = {g for path in _CPU.glob("cpu[0-9]*/cpufreq/scaling_governor") if (g := _read(path))}
    parts = [f"governor {'/'.join(sorted(governors))}"] if governors else []
    if profile := _read("/sys/firmware/acpi/platform_profile"):
        parts.append(f"profile {profile}")
    if (boost := _read(_CPU / "cpufreq/boost")) is not None:
        parts.append("boost on" if boost == "1" else "boost off")
    return ", ".join(parts) or "unknown"


def describe_machine() -> dict[str, Any]:
    """CPU, cores, instruction set, memory, power mode, kernel."""
    memory = next((line for line in (_read("/proc/meminfo") or "").splitlines() if line.startswith("MemTotal")), "")
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "instruction_set": isa(),
        "memory_gb": round(int(memory.split()[1]) / 1e6, 1) if memory else None,
        "power_mode": power_mode(),
        "virtual": "hypervisor" in (_read("/proc/cpuinfo") or ""),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class _Reading:
    time: float
    busy: float  # seconds of all cores together
    stolen: float
    own: float
    megahertz: float | None
    throttled: int | None


def _reading() -> _Reading:
    fields = [int(x) for x in ((_read("/proc/stat") or "").splitlines() or ["cpu"])[0].split()[1:]]
    fields += [0] * (8 - len(fields))
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    own = os.times()
    return _Reading(
        time.perf_counter(),
        (user + nice + system + irq + softirq) / _CLOCK,
        steal / _CLOCK,
        own.user + own.system,
        _megahertz(),
        _throttled(),
    )


def _megahertz() -> float | None:
    values = [int(v) / 1e3 for path in _CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq") if (v := _read(path))]
    if not values:
        lines = (_read("/proc/cpuinfo") or "").splitlines()
        values = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(values) / len(values) if values else None


def _throttled() -> int | None:
    counts = [int(v) for path in _CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count") if (v := _read(path))]
    return sum(counts) if counts else None


class Watch:
    """What the machine did beside us while a block ran.

    ``other_load``: cores that others kept busy, ``stolen``: cores that the hypervisor withheld, ``own_load``: cores
    that we kept busy, ``megahertz``: (before, after) or None, ``throttled``: thermal throttling events or None.
    """

    def __enter__(self) -> Watch:
        self._before = _reading()
        return self

    def __exit__(self, *_: object) -> None:
        before, after = self._before, _reading()
        wall = max(after.time - before.time, 1e-3)
        self.own_load = (after.own - before.own) / wall
        # /proc/stat counts in hundredths of a second: a small negative difference is rounding.
        self.other_load = max((after.busy - before.busy) / wall - self.own_load, 0.0)
        self.stolen = max((after.stolen - before.stolen) / wall, 0.0)
        self.megahertz = None
        if before.megahertz is not None and after.megahertz is not None:
            self.megahertz = (before.megahertz, after.megahertz)
        self.throttled = None
        if before.throttled is not None and after.throttled is not None:
            self.throttled = after.throttled - before.throttled

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "own_load": round(self.own_load, 3),
            "other_load": round(self.other_load, 3),
            "stolen": round(self.stolen, 3),
            "megahertz": self.megahertz,
            "throttled": self.throttled,
        }

    def warnings(self, cv: float, drift: float) -> list[str]:
        """Why the times should not be trusted, as sentences.

        ``cv``: coefficient of variation of the latencies; ``drift``: how much slower the end was than the beginning.
        """
        found = []
        if cv > _FEW_RUNS_VARY:
            found.append(
                f"latencies vary: their coefficient of variation is {cv:.0%}; take the median, or measure again"
            )
        if self.other_load > _OTHER_LOAD:
            found.append(
                f"other processes kept {self.other_load:.1f} cores busy meanwhile; stop them and measure again"
            )
        if self.stolen > _OTHER_LOAD:
            found.append(f"the hypervisor gave {self.stolen:.1f} of our cores to others meanwhile")
        if abs(drift) > _DRIFT:
            change = "slower" if drift > 0 else "faster"
            found.append(
                f"the last quarter was {abs(drift):.0%} {change} than the first: the clock frequency changed (heat, "
                "power), or other load did"
            )
        if self.throttled:
            found.append(f"the processor throttled {self.throttled} times because of heat")
        if self.megahertz is not None and abs(self.megahertz[1] / self.megahertz[0] - 1) > _DRIFT:
            found.append(f"the clock went from {self.megahertz[0]:.0f} to {self.megahertz[1]:.0f} MHz")
        governor = power_mode()
        if "governor" in governor and "performance" not in governor:
            found.append(f"power mode is '{governor}'; for steady figures set the governor to performance")
        return found
