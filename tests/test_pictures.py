"""Which pictures are found, and that no two outputs ever share a name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from densepose_engine.files.output_files import (
    OutputError,
    atomic_output,
    check_outputs,
    remove_unfinished,
    takes_files,
    write_all,
)
from densepose_engine.outputs.kinds import OUTPUT_KINDS, outputs_of
from densepose_engine.pictures.find import Picture, find_pictures


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(pictures: Sequence[Picture]) -> list[str]:
    return [str(picture.name) for picture in pictures]


def test_folders_are_mirrored_and_files_are_not(tmp_path: Path) -> None:
    make(tmp_path, "in/a.jpg", "in/b/c.PNG", "in/b/d/e.webp", "elsewhere/f.jpg")
    found = find_pictures([tmp_path / "in", tmp_path / "elsewhere" / "f.jpg"])
    assert names(found) == ["a", "b/c", "b/d/e", "f"]
    assert found[1].output(Path("out"), ".npz") == Path("out/b/c.npz")


def test_what_is_no_picture_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    make(tmp_path, "in/a.jpg", "in/notes.txt", "in/.hidden.jpg", "in/.thumbnails/a.jpg", "in/raw")
    assert names(find_pictures([tmp_path / "in"])) == ["a"]
    assert names(find_pictures([tmp_path / "in" / "raw", tmp_path / "in" / "notes.txt"])) == ["raw", "notes"]


def test_a_suffix_is_kept_only_where_it_tells_pictures_apart(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a.png", "b.jpg", "sub/a.jpg")
    assert names(find_pictures([tmp_path])) == ["a.jpg", "a.png", "b", "sub/a"]


def test_a_kept_suffix_does_not_take_another_name(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a.png", "a.jpg.png", "a.jpg.png.tif", "a.png.bmp")
    found = find_pictures([tmp_path])
    assert len(set(names(found))) == 5
    assert {str(p.name) for p in found} >= {"a.jpg", "a.png", "a.jpg.png", "a.png.bmp"}


def test_the_same_names_below_two_folders(tmp_path: Path) -> None:
    make(tmp_path, "day1/cam/x.jpg", "day2/cam/x.jpg", "day2/cam/y.jpg")
    found = find_pictures([tmp_path / "day1" / "cam", tmp_path / "day2" / "cam"])
    assert names(found) == ["day1/cam/x", "day2/cam/x", "day2/cam/y"]


def test_names_never_leave_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x.jpg", "b/x.jpg", "b/c/x.jpg")
    monkeypatch.chdir(tmp_path / "b" / "c")
    found = find_pictures(["../../a", "..", "../../b/c/x.jpg"])
    assert sorted(names(found)) == ["a/x", "b/c/x", "b/x"]
    assert names(find_pictures(["."])) == ["x"]


def test_a_picture_that_is_named_twice_is_one(tmp_path: Path) -> None:
    make(tmp_path, "in/a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    arguments = [
        tmp_path / "in" / "a.jpg",
        tmp_path / "in",
        tmp_path / "in" / ".." / "in" / "a.jpg",
        tmp_path / "link.jpg",
    ]
    assert names(find_pictures(arguments)) == ["a"]


def test_linked_folders_do_not_go_round_in_circles(tmp_path: Path) -> None:
    make(tmp_path, "in/a.jpg")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self.jpg").symlink_to(tmp_path / "in" / "self.jpg")
    assert names(find_pictures([tmp_path / "in"])) == ["a", "self"]  # reading the broken link fails, and says so


def test_any_mix_of_arguments_gives_distinct_outputs(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a.png", "a.u.jpg", "s/a.jpg", "s/a.jpg.png", "s/s/a.jpg", "t/a.jpg", "t/a.parts.png")
    every = [tmp_path, tmp_path / "s", tmp_path / "s/s", tmp_path / "t", tmp_path / "a.jpg", tmp_path / "t/a.jpg"]
    for count in (1, 2, 3):
        for arguments in itertools.permutations(every, count):
            found = find_pictures(arguments)
            outputs = [path for p in found for path in outputs_of(p, tmp_path / "out", OUTPUT_KINDS).values()]
            assert len(set(outputs)) == len(outputs) == len(found) * len(OUTPUT_KINDS)
            assert all(tmp_path / "out" in Path(os.path.normpath(path)).parents for path in outputs)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    make(tmp_path, "in/notes.txt")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        find_pictures([tmp_path / "gone.jpg"])
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*in .*\.jpeg"):
        find_pictures([tmp_path / "in"])


def test_results_are_not_taken_for_pictures(tmp_path: Path) -> None:
    make(tmp_path, "in/a.jpg", "in/out/a.parts.png")
    assert names(find_pictures([tmp_path / "in"], tmp_path / "in" / "out")) == ["a"]
    with pytest.raises(ValueError, match="results cannot go into"):
        find_pictures([tmp_path / "in"], tmp_path / "in" / "." / "")


def test_outputs_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.npz"
    with atomic_output(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
        assert temporary.suffix == ".npz"
    assert path.read_bytes() == b"whole"
    with pytest.raises(KeyboardInterrupt), atomic_output(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"whole"
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_the_longest_name_that_the_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".npz")
    with atomic_output(path) as temporary:
        temporary.write_bytes(b"")
    assert path.exists()
    with pytest.raises(OutputError, match="cannot write"), atomic_output(tmp_path / ("n" * 300)) as temporary:
        temporary.write_bytes(b"")


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    make(tmp_path, *(f"{k}.npz" for k in range(7)))
    paths = [tmp_path / f"{k}.npz" for k in range(8)]
    with pytest.raises(OutputError, match=r"0\.npz.*4\.npz and 2 more exist already; --force"):
        check_outputs(paths, force=False)
    check_outputs(paths, force=True)
    check_outputs(paths[7:], force=False)
    with pytest.raises(OutputError, match="is not a folder"):
        check_outputs([paths[0] / "below" / "x.npz"], force=True)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        check_outputs([tmp_path / "folder.npz"], force=True)


def test_an_output_that_fails_does_not_cost_the_others(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # in the way
    paths = [tmp_path / name for name in "abc"]
    with pytest.raises(OutputError, match=r"cannot write .*/b: ") as failure:
        write_all({path: lambda temporary: temporary.write_text("whole") for path in paths})
    assert str(paths[0]) not in str(failure.value)
    assert [path.read_text() for path in (paths[0], paths[2])] == ["whole", "whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_an_interruption_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C can come in the very line that would remove the temporary file."""

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", interrupted)
        with atomic_output(tmp_path / "a.npz") as temporary:
            temporary.write_bytes(b"half")
            raise ValueError
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished()
    assert list(tmp_path.iterdir()) == []


def test_a_place_is_tried(tmp_path: Path) -> None:
    assert takes_files(tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("")
    assert not takes_files(tmp_path / "file" / "below")
    assert not takes_files(Path("/proc/self"))
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_folders_on_the_way_have_their_limits_too(tmp_path: Path) -> None:
    limit = os.pathconf(tmp_path, "PC_NAME_MAX")
    check_outputs([tmp_path / ("f" * limit) / "a.npz", tmp_path / ("n" * (limit - 4) + ".npz")], force=False)
    for path in (
        tmp_path / ("f" * (limit + 1)) / "a.npz",
        tmp_path / ("ü" * (limit // 2 + 1)) / "a.npz",  # two bytes each
        tmp_path / ("n" * (limit - 3) + ".npz"),
        tmp_path / ("a." + "s" * (limit - 2)),  # it fits, and the temporary name, which has this suffix, does not
    ):
        with pytest.raises(OutputError, match=rf"bytes, and .* takes {limit}"):
            check_outputs([path], force=False)
