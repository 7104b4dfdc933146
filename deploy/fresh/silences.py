"""Writes what a command says, line by line with the seconds since its start, and ends with the longest silences.

COMMAND | python silences.py LOG
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(path: Path) -> None:
    begin = last = time.monotonic()
    silences: list[tuple[float, str]] = []
    with path.open("w", encoding="utf-8") as log:
        for line in iter(sys.stdin.readline, ""):
            now = time.monotonic()
            silences.append((now - last, line.strip()[:80]))
            last = now
            log.write(f"{now - begin:7.1f}  {line}")
            log.flush()
    print(f"    {time.monotonic() - begin:.0f} s; longest silences:")
    for seconds, line in sorted(silences, reverse=True)[:3]:
        print(f"    {seconds:5.1f} s before {line!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
