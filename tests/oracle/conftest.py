"""The judge: files made by the real detectron2, which are too large to commit.

``DENSEPOSE_SHARED`` names their folder; without it, ``shared`` beside the repository is taken.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))  # the modules that these tests share with the ones above


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds ``oracle``. Where it is absent its tests fail: a skip would look like a pass."""
    folder = Path(os.environ.get("DENSEPOSE_SHARED", TESTS.parents[1] / "shared"))
    if not (folder / "oracle").is_dir():
        pytest.fail(f"{folder} has no folder `oracle`: set DENSEPOSE_SHARED to where it is", pytrace=False)
    return folder
