"""Which pictures a list of files and folders means, and what the files made of each are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

#: What is taken for a picture inside a folder. A file that is named itself may be called anything.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".avif", ".jp2")


@dataclass(frozen=True)
class Picture:
    """A picture to read from ``path``; what is made of it goes to ``name`` below the output folder, plus a suffix."""

    path: Path
    name: Path

    def output(self, folder: Path, suffix: str) -> Path:
        """Where the output with this suffix (".npz") goes."""
        return folder / self.name.with_name(self.name.name + suffix)


def find_pictures(arguments: Sequence[str | os.PathLike[str]], output_folder: Path | None = None) -> list[Picture]:
    """The pictures that files and folders mean, each once, with a name of its own.

    Folders are searched recursively for files with a known suffix, in alphabetical order; hidden files, hidden folders
    and linked folders are left out, and so is ``output_folder``, whose overlays are pictures too.

    A name is the path below the folder argument (for a file, its name), without suffix. Pictures that would share it
    keep their suffix (``a.jpg``, ``a.png``). Where two arguments still give the same, all names are paths below the
    closest folder that holds every picture.

    Raises:
        FileNotFoundError: an argument does not exist, or a folder holds no picture.
        ValueError: ``output_folder`` is one of the arguments.
    """
    found: dict[str, Picture] = {}  # by what the path leads to: a picture that is named twice is one picture
    excluded = os.path.realpath(output_folder) if output_folder else None
    for argument in map(Path, arguments):
        if argument.is_dir():
            if os.path.realpath(argument) == excluded:
                raise ValueError(
                    f"the results cannot go into {argument}, which is read: they would be taken for pictures next time"
                )
            paths = list(_walk(argument, excluded))
            if not paths:
                raise FileNotFoundError(f"no pictures in {argument} (files ending in {', '.join(SUFFIXES)})")
            pictures = [Picture(path, path.relative_to(argument)) for path in paths]
        elif argument.exists():
            pictures = [Picture(argument, Path(argument.name))]
        else:
            raise FileNotFoundError(f"there is no file or folder {argument}")
        for picture in pictures:
            found.setdefault(os.path.realpath(picture.path), picture)
    return _with_distinct_names(list(found.values()))


def _walk(folder: Path, excluded: str | None) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=_raise):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and os.path.realpath(here / f) != excluded)
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield here / name


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave a folder that it may not read out silently


def _with_distinct_names(pictures: list[Picture]) -> list[Picture]:
    if _repeated(picture.name for picture in pictures):
        # Only the folders are resolved: a linked picture is called what its link is called.
        absolute = [picture.path.parent.resolve() / picture.path.name for picture in pictures]
        root = os.path.commonpath([path.parent for path in absolute])
        pictures = [replace(p, name=path.relative_to(root)) for p, path in zip(pictures, absolute, strict=True)]
    # Keeping one suffix can take another picture's name (`a.jpg`, `a.png` and `a.jpg.png`), so this goes on until
    # nothing is shared; with all suffixes kept, the names are distinct paths.
    short = {picture.name: picture.name.with_suffix("") for picture in pictures}
    while shared := _repeated(short.values()):
        for full, name in short.items():
            if name in shared:
                short[full] = full
    return [replace(picture, name=short[picture.name]) for picture in pictures]


def _repeated(names: Iterable[Path]) -> set[Path]:
    return {name for name, count in Counter(names).items() if count > 1}
