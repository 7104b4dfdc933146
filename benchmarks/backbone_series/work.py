"""One network after the other, each in a process of its own: what brings one down leaves the rows of the others."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from densepose_engine.commands.progress import ProgressBar

from .networks import Network

_PATIENCE = 10.0  # seconds that a process may take to end after its answer
Task = Callable[..., None]


def _child(task: Task, arguments: Sequence[Any], answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends this process
    try:
        task(*arguments)
        answer.send("")
    except Exception as error:
        # A text: not every exception can be pickled, and its trace is lost on the way.
        where = traceback.extract_tb(error.__traceback__)[-1]
        answer.send(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")


def in_process(task: Task, *arguments: Any) -> str:
    """Run a function of a module in a new process. Returns "" or, as a sentence, what went wrong."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(task, arguments, sender), name="ablation")
    process.start()
    sender.close()
    try:
        problem = str(receiver.recv())
        process.join(_PATIENCE)
        return problem
    except EOFError:
        process.join()
        return _ending(process.exitcode or 0)
    finally:
        receiver.close()
        if process.is_alive():  # nobody waits for it any more, or it does not end
            process.kill()
        process.join()


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended without an answer, with status {code}"
    more = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{more}"


def run_all(
    jobs: Mapping[Network, Sequence[Any]],
    task: Task,
    unit: str,
    *,
    say: Callable[[str], None],
    run: Callable[..., str] = in_process,
    quiet: bool = False,
) -> dict[Network, str]:
    """Do ``task(*arguments)`` for every network, going on after failures; ``run`` is how.

    ``say`` is told of each failure at once. Returns what failed, and why.
    """
    failed: dict[Network, str] = {}
    with ProgressBar(len(jobs), unit, enabled=not quiet) as bar:
        for network, arguments in jobs.items():
            if problem := run(task, *arguments):
                failed[network] = problem
                bar.clear()
                say(f"{network}: {problem}")
            bar.advance()
    return failed
