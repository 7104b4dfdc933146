"""What the tests of checkpoints share: writing files, changing them, and looking at what loading makes of them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from densepose_engine.errors import CheckpointError
from densepose_engine.export.checkpoint.load import load_checkpoint


def same(loaded: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(loaded) == list(expected)
    for name, value in expected.items():
        array = loaded[name].numpy() if isinstance(loaded[name], torch.Tensor) else loaded[name]
        assert array.shape == value.shape
        np.testing.assert_array_equal(array, value)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    """The message of the error that loading raises; it always names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def edited(source: Path, target: Path, changes: dict[bytes, bytes]) -> Path:
    """A copy of an archive with the bytes of its pickle replaced, each exactly once."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                for before, after in changes.items():
                    assert data.count(before) == 1
                    data = data.replace(before, after)
            new.writestr(entry.filename, data)
    return target
