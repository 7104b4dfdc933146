"""What a user reads where a package is missing."""

from __future__ import annotations

import math

import pytest

from densepose_engine.errors import BackendUnavailable, require


def test_a_module_that_is_there() -> None:
    assert require("math", "build") is math


@pytest.mark.parametrize(
    ("extra", "command"), [("build", "pip install 'densepose-engine[build]'"), (None, "pip install no_such_package")]
)
def test_a_module_that_is_missing(extra: str | None, command: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        require("no_such_package.inner", extra, "building")
    text = str(caught.value)
    assert text.startswith("building needs no_such_package.inner") and text.endswith(command)
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(BackendUnavailable, match="libcudart"):
        require("torch", "export", "exporting")
