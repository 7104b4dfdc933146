"""Runs a command and lets no ten seconds pass in silence: pip, for one, says nothing while it unpacks a large wheel.

    python speak.py WHAT COMMAND [ARGUMENT ...]

The command's output is passed on as it comes; its exit status is this program's.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

SILENCE = 8.0  # seconds until something is said


def main(what: str, command: list[str]) -> int:
    out = sys.stdout.buffer
    out.write(f"=== {what}\n".encode())
    out.flush()
    begin = time.monotonic()
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    assert process.stdout is not None
    pipe, last = process.stdout.fileno(), b"\n"
    while True:
        if select.select([pipe], [], [], SILENCE)[0]:
            data = os.read(pipe, 1 << 16)
            if not data:
                break
        elif process.poll() is not None:  # it left something behind that holds the pipe
            break
        else:
            data = f"    ... {what}, {time.monotonic() - begin:.0f} s\n".encode()
            data = data if last == b"\n" else b"\n" + data
        last = data[-1:]
        out.write(data)
        out.flush()
    status = process.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:  # the command got it, too
        sys.exit(130)
