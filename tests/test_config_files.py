"""Configuration files that cannot be read: every one is a ConfigError that names the file and the reason."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest

from densepose_engine.errors import ConfigError
from densepose_engine.export.config.model_config import load_config


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
        ("A: 2020-99-99\n", "no timestamp at line 1"),
        ("A: \x00\n", "not valid YAML"),
        ("#" * (1 << 20) + "\n", "bytes, at most"),
        ("A: !!int ''\n", "'' is no int at line 1"),
        ("A: !!float ''\n", "is no float"),
        ("A: !!bool maybe\n", "is no bool"),
        ("A: !!timestamp ''\n", "is no timestamp"),
        ("A: !!binary é\n", "base64"),
        ("A: !!int []\n", "scalar"),
        ("A: !!python/tuple 3\n", "sequence"),
        ("A: &a [*a]\n", "inside of what it names"),
        ("A: &a {b: *a}\n_BASE_: base.yaml\n", "inside of what it names"),
        ("? [a, b]\n: c\n", "unhashable"),
        ("A: [" + "x, " * 21_000 + "]\n", "more than 20000 values"),
        ("_BASE_: ~nosuchuser/base.yaml\n", "no such user"),
        ("_BASE_: /dev/zero\n", "no regular file"),
        ("_BASE_: .\n", "Is a directory"),
        ('_BASE_: "a\\0b"\n', "null"),
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


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "no regular file" in unreadable(tmp_path / "pipe.yaml")
    assert "no regular file" in unreadable(write(tmp_path, "c.yaml", "_BASE_: pipe.yaml\n"))


def test_chains_end(tmp_path: Path) -> None:
    """Long ones, and those in which every file names the next one twice."""
    for index in range(40):
        write(tmp_path, f"{index}.yaml", f"_BASE_: {index + 1}.yaml\n")
        write(tmp_path, f"d{index}.yaml", f"_BASE_: [d{index + 1}.yaml, d{index + 1}.yaml]\n")
    write(tmp_path, "d12.yaml", "A: 1\n")
    for name in ("0.yaml", "d0.yaml"):
        assert "16 files deep and 64 files in all" in unreadable(tmp_path / name)


def remarks(path: Path) -> list[str]:
    with pytest.warns(UserWarning) as caught, contextlib.suppress(ConfigError):
        load_config(path)
    texts = [str(one.message) for one in caught]
    assert all(len(text) < 600 and "\n" not in text for text in texts)
    return texts


def test_a_key_of_thousands_of_digits(tmp_path: Path) -> None:
    assert "huge int" in remarks(write(tmp_path, "c.yaml", f"? 0x{'f' * 6000}\n: 1\n"))[0]


def test_test_time_augmentation_is_ignored_with_a_remark(tmp_path: Path) -> None:
    (remark,) = remarks(write(tmp_path, "c.yaml", "TEST: {AUG: {ENABLED: true}}\n"))
    assert "TEST.AUG.ENABLED is ignored" in remark


def test_many_unknown_keys_are_counted(tmp_path: Path) -> None:
    (remark,) = remarks(write(tmp_path, "c.yaml", "".join(f"K{index}: 1\n" for index in range(300))))
    assert "K19 and 280 more" in remark
