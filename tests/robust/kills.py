"""Every verb that writes is killed, terminated or interrupted at random moments, and then run again.

No final file is ever half written, none that was there before is lost, nothing is left behind where the verb could
clean up, and the same command, run again, ends as if nothing had happened.
"""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from random import Random

from .counts import BUILD, Counts
from .verbs import Reference, Verb, run, verbs

_KILLS = 6  # of each verb
_HEAVY_KILLS = 3
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
#: By signal: as the shell sees a process that the signal ended, or that ended itself because of it; and what is done.
_CODES = {
    signal.SIGKILL: {0, -signal.SIGKILL},
    signal.SIGTERM: {0, -signal.SIGTERM, 128 + signal.SIGTERM},
    signal.SIGINT: {0, -signal.SIGINT, 128 + signal.SIGINT},
}


def part(scale: float, long: bool) -> Counts:
    """``scale`` times six moments for each verb."""
    counts = Counts("kills")
    with ThreadPoolExecutor(2) as pool:
        for one in pool.map(lambda verb: _kill_often(verb, scale), verbs()):
            counts.add(one)
    return counts


def _kill_often(verb: Verb, scale: float) -> Counts:
    counts, rng = Counts("kills"), Random(f"kills {verb.name}")
    folder = BUILD / "work" / "kills" / verb.name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reference = Reference(verb, folder)
    for number in range(max(round((_HEAVY_KILLS if verb.heavy else _KILLS) * scale), 1)):
        delay = rng.uniform(0.15, 1.05) * reference.seconds
        # Half of them replace files that are there already.
        _kill_once(reference, _SIGNALS[number % len(_SIGNALS)], delay, number % 2 == 1, counts)
        counts.tried += 1
    return counts


def _kill_once(reference: Reference, number: signal.Signals, delay: float, before: bool, counts: Counts) -> None:
    verb = reference.verb
    out = reference.folder.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if before:
        for name in verb.outputs:
            shutil.copyfile(reference.folder / name, out / name)
    what = f"{verb.name}, {number.name} after {delay:.2f} s"
    ended = run(verb.command(out, "--force"), signal_after=(number, delay))
    if ended.code is None:
        counts.fail("hangs", f"{what}: does not end")
    elif ended.code not in _CODES[number]:
        kind = "crashes" if ended.code < 0 else "wrong exception types"
        counts.fail(kind, f"{what}: exit code {ended.code}: {ended.last_line}")
    killed = number == signal.SIGKILL
    for text, size in reference.faults(out, complete=before, hidden=killed, interrupted=not killed):
        counts.fail("bytes lost", f"{what}: {text}", size)
    again = run(verb.command(out, "--force"))
    if again.code is None:
        counts.fail("hangs", f"{what}: the run after it does not end")
    elif again.code != 0:
        kind = "crashes" if again.code < 0 else "wrong exception types"
        counts.fail(kind, f"{what}: the run after it ends with {again.code}: {again.last_line}")
    for text, size in reference.faults(out, complete=True, hidden=True):
        counts.fail("bytes lost", f"{what}: after the run after it, {text}", size)
