"""One line that stands for everything an engine answers: run before and after a change that must change nothing.

    python benchmarks/fingerprint.py demo.engine models/evaluation --most 40

prints the SHA-256 over boxes, scores, labels, UV and confidences of all pictures, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from densepose_engine import DensePoseResult, Engine
from densepose_engine.pictures.find import find_pictures


def add(digest: hashlib._Hash, result: DensePoseResult) -> None:
    """Types and shapes too: an empty array is not nothing."""
    confidences = [array for name in sorted(result.confidences) for array in result.confidences[name]]
    for array in (result.boxes, result.scores, *result.labels, *result.uv, *confidences):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engines", nargs="+", type=Path, metavar="ENGINE")
    parser.add_argument("pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--most", type=int, default=40, metavar="N", help="pictures (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args()
    pictures = find_pictures([arguments.pictures])[: arguments.most]
    for path in arguments.engines:
        digest, people = hashlib.sha256(), 0
        with Engine.load(path, num_threads=arguments.threads, cache_dir=None) as engine:
            for picture in pictures:
                result = engine.infer(picture.path, score_threshold=0.05)
                add(digest, result)
                people += len(result)
        print(f"{digest.hexdigest()}  {path.name}: {len(pictures)} pictures, {people} people")


if __name__ == "__main__":
    main()
