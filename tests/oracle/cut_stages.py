"""Makes ``tests/data/stages`` from full stage files: ``python tests/oracle/cut_stages.py FILE ...``.

Of every stage a regular part of its values is kept, unrounded, with its stored shape and its largest value; the picture
and the boxes, which all files have in common, stand in a file of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from stages import thinning  # noqa: E402 (found by the line above)


def main(paths: list[Path]) -> None:
    target = TESTS / "data/stages"
    target.mkdir(parents=True, exist_ok=True)
    inputs: dict[str, np.ndarray] = {}
    if (target / "inputs.npz").exists():
        with np.load(target / "inputs.npz") as file:
            inputs = dict(file)
    for path in paths:
        with np.load(path) as file:
            stages = dict(file)
        own = {name: stages.pop(name) for name in ("image", "boxes")}
        assert not inputs or all(np.array_equal(inputs[name], own[name]) for name in own), path
        inputs = own
        cut = {}
        for name, values in stages.items():
            cut[name] = values.ravel()[:: thinning(values.size)]
            cut[f"{name}.shape"] = np.array(values.shape)
            cut[f"{name}.largest"] = np.abs(values).max()
        np.savez_compressed(target / path.name, **cut)
    if not (target / "inputs.npz").exists():
        np.savez_compressed(target / "inputs.npz", **inputs)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
