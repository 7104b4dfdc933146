"""The process that runs a target's inputs. It may die or hang at any of them: the supervisor sees how far it came.

    python -m robust.fuzz_worker TARGET SEED FIRST LAST FOLDER

Inputs are numbered: first those of the corpus, then generated ones, each of a generator seeded with its number, so that
any of them can be made again. A line of JSON on the pipe announces each, and another tells its end.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from .counts import keep
from .target import Target, WrongResult
from .targets import corpus, target_class


def outcome(target: Target, path: Path) -> Mapping[str, Any]:
    """Run one input; {} where it ended as documented, else kind, place, text and size of the failure."""
    try:
        target.run(path)
    except WrongResult as error:
        return {"kind": "bytes lost", "place": str(error), "text": str(error), "size": error.size}
    except target.allowed:
        return {}
    except BaseException as error:  # SystemExit and KeyboardInterrupt are no documented outcomes either
        text = "".join(traceback.format_exception(error))[-6000:]
        return {"kind": "wrong exception types", "place": place_of(error), "text": text}
    return {}


def place_of(error: BaseException) -> str:
    """The exception's type and the last line of ours, or of the suite's where none of ours is involved."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/engine/" in f.filename or "/calibration/" in f.filename]
    frame = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {str(error)[:120]}"


def main(name: str, seed: str, first: str, last: str, folder: str) -> None:
    """Run inputs ``first`` to before ``last``."""
    # The pipe is a copy of stdout; what the product prints goes nowhere.
    with os.fdopen(os.dup(1), "w") as pipe, Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        faulthandler.enable()
        warnings.simplefilter("ignore")

        def tell(**line: Any) -> None:
            pipe.write(json.dumps(line) + "\n")
            pipe.flush()

        place = Path(folder)
        target = target_class(name)(place)
        limit_memory(target.memory)
        kept, verb = corpus(name), os.environ.get("ROBUST_REPLAY", "replay")
        for number in range(int(first), int(last)):
            path = _input(target, kept, number, seed, place)
            tell(begin=number, path=str(path))
            failure = dict(outcome(target, path))
            if failure:
                failure["replay"] = keep(name, path, failure["kind"], failure["place"], failure["text"], verb)
            path.unlink(missing_ok=True)
            tell(end=number, **failure)
        tell(done=True)
    os._exit(0)  # what a damaged engine leaves behind is not asked to clean up


def _input(target: Target, kept: list[Path], number: int, seed: str, folder: Path) -> Path:
    if number < len(kept):
        data, suffix = kept[number].read_bytes(), kept[number].suffix
    else:
        data, suffix = target.make(Random(f"{seed}/{target.name}/{number - len(kept)}"))
    path = folder / f"input{suffix}"
    path.write_bytes(data)
    return path


def limit_memory(more: int | None) -> None:
    """Of this process, to what it has and ``more`` bytes of address space."""
    if more is None or "ROBUST_NO_MEMORY_LIMIT" in os.environ:
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(*sys.argv[1:])
