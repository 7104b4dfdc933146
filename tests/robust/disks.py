"""Full disks, closed and full outputs, and folders that may not be written or belong to somebody else."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from . import material
from .counts import BUILD, Counts
from .verbs import Ended, Reference, Verb, run, verbs

_WORK = BUILD / "work" / "disks"
_NOBODY = 65534
_DONE, _SOME_FAILED, _BAD_INPUT, _BAD_RUNTIME, _BAD_OUTPUT = 0, 1, 3, 4, 5


def part(scale: float, long: bool) -> Counts:
    """Each verb on full disks of several sizes, then each in folders that it may not write to."""
    counts = Counts("disks")
    shutil.rmtree(_WORK, ignore_errors=True)
    _WORK.mkdir(parents=True)
    # Export writes megabytes and takes long; the long run has it, too.
    chosen = [verb for verb in verbs() if long or not verb.heavy]
    with ThreadPoolExecutor(2) as pool:
        for one in pool.map(_disks, chosen):
            counts.add(one)
    _full_stdout(counts)
    _foreign_cache(counts)
    return counts


def _disks(verb: Verb) -> Counts:
    counts = Counts("disks")
    folder = _WORK / verb.name.replace(" ", "-")
    folder.mkdir(parents=True)
    reference = Reference(verb, folder)
    _limited_files(reference, counts)
    _small_disks(reference, counts)
    _read_only(reference, counts)
    return counts


def _limited_files(reference: Reference, counts: Counts) -> None:
    """No file may become larger than a part of the largest output: what a full disk looks like to whoever writes."""
    verb = reference.verb
    for share in (0.0, 0.4, 0.9):
        out = _empty(reference.folder.with_name("limited"))
        limit = int(reference.largest * share)

        def shrink(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        ended = run(verb.command(out), before=shrink)
        what = f"{verb.name} where files may have {limit} bytes"
        # Where a verb works in the folder of temporary files, too, it may be that or the runtime that fails.
        # Of pictures, one whose outputs are too large costs itself alone.
        some = {_SOME_FAILED} if verb.inside else {_BAD_INPUT, _BAD_RUNTIME}
        codes = {_DONE, _BAD_OUTPUT} | some
        _judge(what, ended, codes, counts)
        _judge_folder(reference, out, ended, what, counts)


def _small_disks(reference: Reference, counts: Counts) -> None:
    verb = reference.verb
    for share in (0.3, 0.9):
        size = max(int(reference.largest * share), 4096)
        with _disk(reference.folder.with_name("disk"), size) as out:
            if out is None:
                counts.skipped.append("a small disk: needs root, and the right to mount a tmpfs")
                return
            ended = run(verb.command(out))
            what = f"{verb.name} on a disk of {size} bytes"
            _judge(what, ended, {_DONE, _BAD_OUTPUT}, counts)
            _judge_folder(reference, out, ended, what, counts)


def _read_only(reference: Reference, counts: Counts) -> None:
    """By its permissions; for root, who may write everywhere, by how it is mounted."""
    what = f"{reference.verb.name} into a folder that may not be written"
    if os.getuid() != 0:
        out = _empty(reference.folder.with_name("read-only"))
        out.chmod(0o555)
        _judge(what, run(reference.verb.command(out)), {_BAD_OUTPUT}, counts)
        return
    with _disk(reference.folder.with_name("read-only"), 4096) as out_or_none:
        if out_or_none is None:
            counts.skipped.append("a folder that may not be written: root may, where it cannot mount one read-only")
            return
        subprocess.run(["mount", "-o", "remount,ro", str(out_or_none)], check=True)
        _judge(what, run(reference.verb.command(out_or_none)), {_BAD_OUTPUT}, counts)


def _full_stdout(counts: Counts) -> None:
    """Standard output that takes nothing: whatever is printed there, it is an output that cannot be written."""
    engine, pictures = str(material.ENGINE), str(material.PICTURES)
    for words in (
        ("inspect", engine),
        ("inspect", engine, "--json"),
        ("infer", engine, pictures, "--json"),
    ):
        verb = Verb(words[0], words, ())
        with Path("/dev/full").open("wb") as full:
            ended = run(verb.command(_WORK), stdout=full.fileno())
        _judge(f"{' '.join(words[:1])} into a full standard output", ended, {_BAD_OUTPUT}, counts)


def _foreign_cache(counts: Counts) -> None:
    """A cache folder that everybody may write to and that is somebody else's: it is not used, and nothing fails."""
    if os.getuid() != 0:
        counts.skipped.append("a cache folder of another user: needs root")
        return
    folder = _empty(_WORK / "foreign")
    cache = folder / "cache"
    words = ("infer", str(material.ENGINE), str(material.PICTURES), "-o", "{out}", "--save", "npz")
    infer, expected = Verb("infer", words, ()), folder / "expected"
    run(infer.command(expected, "--cache-dir", str(cache)))
    # Somebody's own compiled graphs first, which would compute whatever he likes; then nothing, for us to fill.
    for what in ("with entries of somebody else", "that is empty, and somebody else's"):
        for path in sorted(path for path in cache.rglob("*") if path.is_file()):
            if what.startswith("with"):
                path.chmod(0o644)
            else:
                path.unlink()
        for path in (cache, *cache.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY)
        cache.chmod(0o777)
        for path in cache.rglob("*"):
            os.utime(path, (1, 1))  # the next reading is then noted
        before = _read_times(cache)
        out = folder / what.split()[0]
        ended = run(infer.command(out, "--cache-dir", str(cache)))
        _judge(f"infer with a cache {what}", ended, {_DONE}, counts)
        for path in sorted(expected.glob("*.npz")):
            other = out / path.name
            if not other.exists() or other.read_bytes() != path.read_bytes():
                counts.fail("bytes lost", f"infer with a cache {what}: {path.name} is another", path.stat().st_size)
        for path, times in _read_times(cache).items():
            if path not in before:
                counts.fail("bytes lost", f"infer with a cache {what}: wrote {path.name} there", path.stat().st_size)
            elif times != before[path]:
                counts.fail("bytes lost", f"infer with a cache {what}: read {path.name}", path.stat().st_size)


def _read_times(folder: Path) -> dict[Path, int]:
    """When each file was read last."""
    return {path: path.stat().st_atime_ns for path in folder.rglob("*") if path.is_file()}


# ---- judging ---------------------------------------------------------------------------------------------------------


def _judge(what: str, ended: Ended, codes: set[int], counts: Counts) -> None:
    """Count a run: its code is one of ``codes``, and where it failed, one sentence says so."""
    counts.tried += 1
    if ended.code is None:
        counts.fail("hangs", f"{what}: does not end")
    elif ended.code < 0:
        counts.fail("crashes", f"{what}: ended by signal {-ended.code}")
    elif ended.code not in codes or "Traceback" in ended.stderr:
        counts.fail("wrong exception types", f"{what}: exit code {ended.code}: {ended.last_line}")


def _judge_folder(reference: Reference, out: Path, ended: Ended, what: str, counts: Counts) -> None:
    for text, size in reference.faults(out, complete=ended.code == _DONE, hidden=False):
        counts.fail("bytes lost", f"{what}: {text}", size)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[Path | None]:
    """An empty disk with so much room; None where none can be had."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
