"""Every verb that writes, as users run it, and what a folder must look like after it was interrupted."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import material
from .counts import environment

SECONDS = 180.0  # after which a verb is taken to hang; a busy machine may need long for each


@dataclass(frozen=True)
class Verb:
    """``words`` with ``{out}`` for the folder that it writes to; ``outputs``: the files in there when it is done.

    ``heavy``: takes much longer than the others; ``inside``: it writes nothing outside of ``{out}``, not even temporary
    files.
    """

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...]
    heavy: bool = False
    inside: bool = True

    def command(self, out: Path, *more: str) -> list[str]:
        words = [word.replace("{out}", str(out)) for word in self.words]
        return [sys.executable, "-m", "densepose_engine", *words, *more]


@dataclass(frozen=True)
class Ended:
    """``code``: None where it hung, and was killed."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def last_line(self) -> str:
        lines = self.stderr.strip().splitlines()
        return lines[-1][:300] if lines else ""


def run(
    command: Sequence[str],
    signal_after: tuple[int, float] | None = None,
    seconds: float = SECONDS,
    around: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    stdout: int = subprocess.PIPE,
) -> Ended:
    """Run to the end, to a signal so many seconds after the start, or until it is taken to hang.

    ``before``: called in the child before the program.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=around or environment(),
        cwd=material.FOLDER,
        start_new_session=True,
        preexec_fn=before,
    )
    try:
        if signal_after is not None:
            number, delay = signal_after
            try:
                said = process.communicate(timeout=delay)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, number)
                said = process.communicate(timeout=seconds)
        else:
            said = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, code = process.communicate(), None
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it forked and left behind, or all, on Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(code, said[0] or "", said[1] or "", time.monotonic() - begin)


@functools.cache
def verbs() -> tuple[Verb, ...]:
    """All that write; the small network, but for what only a checkpoint can be given to."""
    names = sorted(path.stem for path in material.PICTURES.iterdir())
    kinds = ("parts.png", "u.png", "v.png", "contours.png", "iuv.png", "npz")
    pictures, engine, graph, table = map(str, (material.PICTURES, material.ENGINE, material.GRAPH, material.TABLE))
    int8 = ("--precision", "int8", "--calib", table)
    weights = ("--config", str(material.MODELS / "demo.yaml"), "--weights", str(material.MODELS / "demo.pth"))
    cache = ("--cache-dir", "{out}/cache")
    infer = tuple(f"{name}.{kind}" for name in names for kind in kinds)
    calibrate = ("calibrate", graph, pictures, "--min-people", "1", "-o", "{out}/a.calib.json")
    build = ("build", graph, "-o", "{out}/a.engine")
    report = ("report", graph, pictures, "--calib", table, "-o", "{out}/a.html", "--json", "{out}/a.json")
    bench = ("bench", engine, "--no-cache", "--noFootprint", "--duration", "0.1", "--warmUp", "0", "--sweep", "")
    return (
        Verb("export", ("export", *weights, "--input-size", "64x96", "-o", "{out}/a.onnx"), ("a.onnx",), True, False),
        Verb("calibrate", calibrate, ("a.calib.json",)),
        Verb("build", build, ("a.engine",), inside=False),
        Verb("build int8", (*build, *int8), ("a.engine",), inside=False),
        Verb("build qdq", (*build[:2], *int8[2:], "--target", "openvino", "-o", "{out}/a.onnx"), ("a.onnx",)),
        Verb("infer pictures", ("infer", engine, pictures, "-o", "{out}", *cache), infer),
        Verb("infer video", ("infer", engine, str(material.VIDEO), "-o", "{out}/a.mp4", *cache), ("a.mp4",)),
        Verb("report", report, ("a.html", "a.json"), inside=False),
        Verb("bench", (*bench, "--json", "{out}/a.json"), ("a.json",)),
    )


class Reference:
    """What a verb leaves when nobody disturbs it; run twice, to know which of its files are always the same."""

    def __init__(self, verb: Verb, folder: Path) -> None:
        self.verb = verb
        self.seconds = 0.0
        self._digests: list[dict[str, str]] = []
        for number in range(2):
            self.folder = folder / f"reference{number}"
            self.folder.mkdir(parents=True)
            ended = run(verb.command(self.folder))
            if ended.code != 0:
                raise RuntimeError(f"{verb.name} ended with {ended.code}: {ended.stderr[-2000:]}")
            self.seconds = ended.seconds
            self._digests.append({name: _digest(self.folder / name) for name in verb.outputs})
        self.largest = max((self.folder / name).stat().st_size for name in verb.outputs)

    def fault(self, name: str, path: Path, interrupted: bool = False) -> str | None:
        """Why a finished file is not whole; None where it is. An interrupted video is kept as far as it got."""
        if interrupted and path.suffix == ".mp4":
            return _unreadable(path, least=1)
        first, second = (digests[name] for digests in self._digests)
        if first == second:
            return None if _digest(path) == first else "is not what an undisturbed run writes"
        return _unreadable(path)

    def faults(self, out: Path, complete: bool, hidden: bool, interrupted: bool = False) -> list[tuple[str, int]]:
        """What is wrong with a folder after a run, with the bytes concerned.

        ``complete``: every output must be there; ``hidden``: part files may be, because nothing runs after SIGKILL.
        """
        found = []
        for name in self.verb.outputs:
            path = out / name
            if path.exists():
                if reason := self.fault(name, path, interrupted):
                    found.append((f"{name} {reason}", path.stat().st_size))
            elif complete:
                found.append((f"{name} is gone", (self.folder / name).stat().st_size))
        for path in sorted(out.iterdir()):
            resumed = path.suffix == ".partial"  # from which calibrate goes on
            if path.is_dir() or path.name in self.verb.outputs or resumed or (hidden and path.name.startswith(".")):
                continue
            found.append((f"{path.name} was left behind", path.stat().st_size))
        return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unreadable(path: Path, least: int = material.VIDEO_FRAMES) -> str | None:
    """For files whose bytes are not always the same; ``least``: frames of a video."""
    data = path.read_bytes()
    if path.suffix == ".mp4":
        import av

        try:
            with av.open(str(path)) as container:
                frames = sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            return f"is no video ({error})"
        return None if least <= frames <= material.VIDEO_FRAMES else f"has {frames} of {material.VIDEO_FRAMES} frames"
    if path.suffix == ".json":
        return None if data.rstrip().endswith(b"}") else "is cut off"
    if path.suffix == ".html":
        return None if data.rstrip().endswith(b"</html>") else "is cut off"
    if path.suffix in (".npz", ".engine"):
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    return None if data else "is empty"
