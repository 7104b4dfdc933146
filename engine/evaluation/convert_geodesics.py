"""DensePose's geodesic distances as one ``.npz`` that ``densepose-engine evaluate --geodesics`` takes.

    python -m densepose_engine.evaluation.convert_geodesics FOLDER geodesics.npz

FOLDER holds SMPL_subdiv.mat, SMPL_SUBDIV_TRANSFORM.mat and Pdist_matrix.pkl, as the DensePose project publishes them at
https://dl.fbaipublicfiles.com/densepose/data/. Their licence is the project's, not this package's. This needs SciPy and
some 6 GB of memory, and writes some 1.5 GB (a float32 for each pair of 27,554 vertices).

The pickle is opened by a reader that can make numpy arrays and nothing else.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DensePoseEngineError
from ..files.output_files import atomic_output
from ..files.reading import open_regular
from .surfaces import SmplSurface, load_mat

FILES = ("SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat", "Pdist_matrix.pkl")


# The decoder that is written in Python: the other one takes memory for any number that the file calls an index.
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return _Ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays have no need of")


class _Ndarray:
    """Stands for numpy.ndarray, which could be asked for an array of any size."""


def _empty_array(kind: object, shape: object, typecode: object) -> np.ndarray:
    """What pickled arrays begin as; their contents, which are checked against their shape, come afterwards."""
    if kind is not _Ndarray or shape != (0,):
        raise pickle.UnpicklingError("it asks for an array without contents")
    return np.empty(0)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how Python 3 writes an array's bytes for Python 2
        raise pickle.UnpicklingError(f"it has bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def convert(folder: Path, output: Path) -> None:
    """Write the table of the DensePose project's three files in ``folder`` to ``output``.

    Raises:
        FileNotFoundError: a file is missing.
        BackendUnavailable: SciPy is not installed.
        DensePoseEngineError: a file is not what it should be.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {folder / name}")
    vertices, merge = load_mat(folder / FILES[0]), load_mat(folder / FILES[1])
    try:
        merged = merge["index"].reshape(-1)
        with open_regular(folder / FILES[2]) as stream:
            distance = _ArrayUnpickler(stream, encoding="latin1").load()["Pdist_matrix"].reshape(-1)
        arrays = {
            "u": vertices["U_subdiv"].reshape(-1).astype(np.float64),
            "v": vertices["V_subdiv"].reshape(-1).astype(np.float64),
            "part": vertices["Part_ID_subdiv"].reshape(-1).astype(np.int64),
            "vertex": merged.astype(np.int64) - 1,
            "distance": distance.astype(np.float32),
        }
        SmplSurface(**arrays)
    except Exception as error:  # pickle's reader raises all kinds
        raise DensePoseEngineError(f"the files in {folder} are not DensePose's geodesics: {error}") from error
    with atomic_output(output) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=f"with {', '.join(FILES)}")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the .npz file to write")
    arguments = parser.parse_args()
    try:
        convert(arguments.folder, arguments.output)
    except (DensePoseEngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
