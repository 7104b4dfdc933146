"""Configuration files that cannot be read: every one is a ConfigError that names the file and the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from densepose_engine.errors import ConfigError
from densepose_engine.export.config import load_config


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def unreadable(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "nowhere.yaml" in unreadable(tmp_path / "nowhere.yaml")
    message = unreadable(write(tmp_path, "a.yaml", "_BASE_: lost.yaml\n"))
    assert "lost.yaml" in message
    assert "a.yaml" in message
    assert str(tmp_path) in unreadable(tmp_path)


def test_circular_bases_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "_BASE_: b.yaml\n")
    write(tmp_path, "b.yaml", "_BASE_: ./a.yaml\n")
    assert re.search(r"circle.*a\.yaml -> .*b\.yaml -> .*a\.yaml", unreadable(tmp_path / "a.yaml"))
    assert "circle" in unreadable(write(tmp_path, "self.yaml", "_BASE_: self.yaml\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("_BASE_: 3\n", "file name"),
        ("_BASE_: https://example.org/base.yaml\n", "download"),
        ("- 1\n- 2\n", "mapping"),
        ("MODEL: [1,\n", "not valid YAML"),
        ("MODEL: !!python/object/apply:os.system ['true']\n", "python/object/apply:os.system"),
        ("MODEL: !!python/name:os.system\n", "line 1"),
        ("A: &a {x: 1}\nMODEL:\n  <<: *a\n", "merge keys"),
        ("A: " + "[" * 5000, "not valid YAML"),
        ("A: 2020-99-99\n", "not valid YAML"),
        ("A: \x00\n", "not valid YAML"),
        ("#" * (1 << 20) + "\n", "bytes are too many"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, "c.yaml", text)
    message = unreadable(path)
    assert says in message
    assert "c.yaml" in message


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00model")
    assert "c.yaml" in unreadable(path)
