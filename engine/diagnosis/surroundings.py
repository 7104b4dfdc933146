"""What an engine finds around it: versions, instruction sets, cache, GPU, cores, memory and locale, as ``doctor`` says.

Each function gives rows of (section, name, state, text, what to do), the fields of ``diagnosis.Finding``.
"""

from __future__ import annotations

import locale
import os
import platform
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from .._core import isa
from ..engine import default_cache_dir

Row = tuple[str, str, str, str, str]

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_TENSORRT_PLUGIN = Path(__file__).resolve().parent / "libdensepose_tensorrt.so"
_MOST_FILES = 10_000
_LITTLE_MEMORY = 1 << 30
_UNLIMITED = 1 << 60  # how version 1 of cgroups says so
_NAMED_FLAGS = (
    *("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512vbmi", "avx512_bf16", "avx_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)


def versions() -> Iterator[Row]:
    """This package, Python and the system."""
    from .. import __version__

    yield "versions", "densepose-engine", "ok", f"{__version__} in {Path(__file__).resolve().parent}", ""
    yield "versions", "python", "ok", f"{platform.python_version()}, {sys.executable}", ""
    libc = " ".join(platform.libc_ver()).strip() or "unknown C library"
    yield "versions", "platform", "ok", f"{platform.system()} {platform.release()} {platform.machine()}, {libc}", ""


# ---- the processor ---------------------------------------------------------------------------------------------------


def instruction_sets() -> Iterator[Row]:
    """What the processor has, what our code uses of it, and how it multiplies INT8."""
    flags = cpu_flags((_PROC / "cpuinfo").read_text(errors="replace"))
    known = [flag for flag in _NAMED_FLAGS if flag in flags]
    yield "processor", "detected", "ok", ", ".join(known) or "none that matter", ""
    wanted = os.environ.get("DENSEPOSE_ISA")
    asked = f" (DENSEPOSE_ISA={wanted})" if wanted else ""
    if wanted and wanted != isa():
        remedy = "DENSEPOSE_ISA names what this processor lacks, or nothing that there is: unset it"
        yield "processor", "used by our kernels", "note", f"{isa()}{asked}", remedy
    elif wanted:
        remedy = "unset DENSEPOSE_ISA for the best that this processor has"
        yield "processor", "used by our kernels", "note", f"{isa()}{asked}", remedy
    else:
        yield "processor", "used by our kernels", "ok", isa(), ""
    fast, text = int8_path(flags, platform.machine())
    yield "processor", "INT8", "ok" if fast else "note", text, ""
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        remedy = "unset ONEDNN_MAX_CPU_ISA, which keeps OpenVINO from faster instructions"
        yield "processor", "OpenVINO", "note", f"limited to ONEDNN_MAX_CPU_ISA={limit}", remedy


def cpu_flags(cpuinfo: str) -> set[str]:
    """The flags of the first processor, as Linux lists them on x86 ("flags") and Arm ("Features")."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def int8_path(flags: set[str], machine: str) -> tuple[bool, str]:
    """How INT8 is multiplied: whether one instruction does it, and a sentence."""
    for flag, name in (
        ("amx_int8", "AMX: tiles of INT8 products, the fastest path"),
        ("avx512_vnni", "AVX-512 VNNI: one instruction for four products and their sum"),
        ("avx_vnni", "AVX-VNNI: one instruction for four products and their sum, 256 bits wide"),
        ("i8mm", "Arm i8mm: INT8 matrix products"),
        ("asimddp", "Arm dot products: one instruction for four products and their sum"),
    ):
        if flag in flags:
            return True, name
    if "avx2" in flags:
        width = "AVX-512" if "avx512bw" in flags else "AVX2"
        return False, f"{width} without VNNI: three instructions for one, so that INT8 gains less over FP32"
    if machine in ("x86_64", "AMD64"):
        return False, "no AVX2: INT8 is slow here, and so is everything else"
    return False, "no dot products: INT8 gains little over FP32"


# ---- the cache -------------------------------------------------------------------------------------------------------


def cache_folder() -> Iterator[Row]:
    """The folder of compiled graphs: where, whose, how large, and whether it can be used."""
    folder = default_cache_dir()
    if folder is None:
        remedy = "set XDG_CACHE_HOME to a folder of yours, so that engines load faster the second time"
        yield "cache", "folder", "note", "none: there is no home folder", remedy
        return
    place = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    status = place.stat()
    if not stat.S_ISDIR(status.st_mode):
        remedy = f"remove {place}, or set XDG_CACHE_HOME to a folder of yours"
        yield "cache", "folder", "broken", f"{place} is no folder, so graphs are compiled anew at every load", remedy
        return
    mine = hasattr(os, "getuid") and status.st_uid == os.getuid()
    if not os.access(place, os.W_OK | os.X_OK):
        remedy = f"make {place} writable, or set XDG_CACHE_HOME to a folder of yours"
        text = f"{folder} cannot be written, so graphs are compiled anew at every load"
        yield "cache", "folder", "note", text, remedy
    elif place == folder and not mine:
        remedy = f"remove {folder} or set XDG_CACHE_HOME: compiled graphs are code, and this folder is not yours"
        yield "cache", "folder", "broken", f"{folder} belongs to user {status.st_uid}", remedy
    elif place == folder and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        remedy = f"chmod go-w {folder}: compiled graphs are code"
        yield "cache", "folder", "broken", f"others may write into {folder}", remedy
    else:
        yield "cache", "folder", "ok", f"{folder}{'' if place == folder else ', not made yet'}", ""
    if place == folder:
        files, size, foreign = _contents(folder)
        text = f"{files} files, {size / 1e6:.1f} MB"
        if foreign:
            remedy = f"remove what is not yours from {folder}: compiled graphs are code"
            yield "cache", "contents", "broken", f"{text}, {foreign} of them another user's or no plain files", remedy
        else:
            yield "cache", "contents", "ok", text, ""


def _contents(folder: Path) -> tuple[int, int, int]:
    """Files, bytes, and how many are another user's or no files at all. Nothing is opened."""
    files = size = foreign = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(Path(root) / name)
            except OSError:  # somebody else is cleaning up
                continue
            files += 1
            size += status.st_size
            foreign += not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid()
            if files == _MOST_FILES:
                return files, size, foreign
    return files, size, foreign


# ---- GPU, cores, memory ----------------------------------------------------------------------------------------------


def gpu() -> Iterator[Row]:
    """NVIDIA's driver, and our plugin for TensorRT."""
    driver = _PROC / "driver/nvidia"
    models = [
        line.partition(":")[2].strip()
        for path in sorted(driver.glob("gpus/*/information"))
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("Model")
    ]
    jetson = Path("/etc/nv_tegra_release").exists()
    found = ", ".join(models) or ("a Jetson" if jetson else "")
    if not (found or driver.is_dir()):
        yield "gpu", "NVIDIA", "note", "no driver here; engines for the CPU need none", ""
        return
    yield "gpu", "NVIDIA", "ok", found or "a driver, but no GPU that it names", ""
    if _TENSORRT_PLUGIN.is_file():
        yield "gpu", "TensorRT plugin", "ok", _TENSORRT_PLUGIN.name, ""
    else:
        remedy = (
            "for TensorRT engines, reinstall densepose-engine with TENSORRT_ROOT set, or run deploy/jetson/install.sh"
        )
        yield "gpu", "TensorRT plugin", "missing", f"{_TENSORRT_PLUGIN.name} was not built", remedy


def resources(cgroup: Path = _CGROUP) -> Iterator[Row]:
    """Cores and memory, and what limits them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cores(cgroup, own_group())
    text = f"{cores} of {os.cpu_count()} may be used"
    if quota is not None and quota < cores:
        remedy = (
            f"give engines --threads {max(int(quota), 1)} (num_threads): more threads than the quota are slowed down"
        )
        yield "resources", "cores", "note", f"{text}, but the container's quota is {quota:g}", remedy
    else:
        yield "resources", "cores", "ok", text, ""
    total, free = _memory("MemTotal"), _memory("MemAvailable")
    limit = cgroup_memory(cgroup, own_group())
    limited = limit is not None and (total is None or limit < total)
    text = f"{_gigabytes(total)}, {_gigabytes(free)} free" + (
        f"; the container's limit is {_gigabytes(limit)}" if limited else ""
    )
    least = min((one for one in (free, limit) if one is not None), default=_LITTLE_MEMORY)
    remedy = "free some memory: a process that runs out of it is ended without a word" if least < _LITTLE_MEMORY else ""
    yield "resources", "memory", "note" if remedy else "ok", text, remedy
    if (address_space := _address_space()) is not None:
        remedy = "lift the limit of address space (ulimit -v unlimited): runtimes reserve more than they use"
        yield "resources", "address space", "note", f"limited to {_gigabytes(address_space)}", remedy


def own_group() -> str:
    """The path of this process's group below the root of cgroups, version 2; "" where it is the root's, or unknown."""
    for line in _lines(_PROC / "self/cgroup"):
        if line.startswith("0::/") and ".." not in line:  # ".." is of a group outside of what this container sees
            return line.removeprefix("0::/")
    return ""


def cgroup_cores(root: Path, group: str = "") -> float | None:
    """The quota of this process in cores, of either version of cgroups; None for no limit.

    Args:
        group: its path below ``root``; what limits the groups above it limits it too.
    """
    quotas = [_words(folder / "cpu.max") for folder in _folders(root, group)]
    quotas.append([" ".join(_words(root / f"cpu/cpu.cfs_{name}_us")) for name in ("quota", "period")])
    # "max" and "-1" are no limit.
    limits = [int(q[0]) / int(q[1]) for q in quotas if len(q) == 2 and all(n.isdigit() and int(n) for n in q)]
    return min(limits, default=None)


def cgroup_memory(root: Path, group: str = "") -> int | None:
    """The limit of this process in bytes; None for none."""
    paths = [folder / "memory.max" for folder in _folders(root, group)]
    texts = ["".join(_words(path)) for path in (*paths, root / "memory/memory.limit_in_bytes")]
    return min((int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED), default=None)


def _folders(root: Path, group: str) -> list[Path]:
    folder = root / group
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))] if group else [root]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split()
    except OSError:
        return []


def _memory(name: str) -> int | None:
    for line in (_PROC / "meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def _address_space() -> int | None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


# ---- locale ----------------------------------------------------------------------------------------------------------


def locale_settings() -> Iterator[Row]:
    """The locale of numbers, and the encodings of names and of the terminal."""
    asked = ", ".join(f"{name}={os.environ[name]}" for name in ("LC_ALL", "LC_NUMERIC", "LANG") if os.environ.get(name))
    # Asking changes nothing: with None, setlocale tells what is set.
    yield "locale", "numbers", "ok", f"{locale.setlocale(locale.LC_NUMERIC, None)} ({asked or 'none asked for'})", ""
    names, terminal = sys.getfilesystemencoding(), getattr(sys.stdout, "encoding", None) or "unknown"
    text = f"file names {names}, terminal {terminal}"
    if names.lower().replace("-", "") != "utf8":
        yield "locale", "encoding", "note", text, "set PYTHONUTF8=1, or a UTF-8 locale, for names that are not ASCII"
    else:
        yield "locale", "encoding", "ok", text, ""
