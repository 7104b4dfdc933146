"""Which pictures a list of files and folders means, and what the files made of each are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ImageError
from ..files.heif import can_read_heif
from ..files.recognize import PICTURE, VIDEO, kind_of_suffix, mismatch

#: What is taken for a picture inside a folder. A file that is named itself may be called anything.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".avif", ".jp2")
#: The same where pillow-heif is installed.
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_COUNTED = 6  # suffixes that a remark names before it counts the rest
# Of these Pillow's formats further frames are further pictures. A telephone's JPEG (MPO) has its preview there.
_ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")


@dataclass(frozen=True)
class Picture:
    """A picture to read from ``path``; what is made of it goes to ``name`` below the output folder, plus a suffix."""

    path: Path
    name: Path

    def output(self, folder: Path, suffix: str) -> Path:
        """Where the output with this suffix (".npz") goes."""
        return folder / self.name.with_name(self.name.name + suffix)


@dataclass(frozen=True)
class Search:
    """What files and folders mean: ``pictures``, each once, with a name of its own; and what was left out.

    ``left_out``: how many files of each suffix (".heic"; "" for none) lie in the folders and are no pictures, or cannot
    be read as ones here; ``hidden``: files and folders; ``linked``: folders.
    """

    pictures: list[Picture]
    left_out: Counter[str]
    hidden: int = 0
    linked: int = 0

    def remark(self) -> str | None:
        """A line about what was left out, or None."""
        known = sorted(self.left_out.items(), key=lambda entry: (-entry[1], entry[0]))
        parts = [f"{number} {suffix or 'without suffix'}" for suffix, number in known[:_COUNTED]]
        if rest := sum(number for _, number in known[_COUNTED:]):
            parts.append(f"{rest} others")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.linked:
            parts.append(f"{self.linked} linked {'folder' if self.linked == 1 else 'folders'}")
        hints = []
        if any(suffix in HEIF_SUFFIXES for suffix in self.left_out):
            hints.append("HEIC is read where pillow-heif is installed")
        if any(kind_of_suffix(suffix) is VIDEO for suffix in self.left_out):
            hints.append("a video has to be named itself")
        return f"left out: {', '.join(parts)}" + (f" ({'; '.join(hints)})" if hints else "") if parts else None


def find_pictures(arguments: Sequence[str | os.PathLike[str]], output_folder: Path | None = None) -> list[Picture]:
    """The pictures that files and folders mean; ``search_pictures`` says more."""
    return search_pictures(arguments, output_folder).pictures


def search_pictures(arguments: Sequence[str | os.PathLike[str]], output_folder: Path | None = None) -> Search:
    """The pictures that files and folders mean, each once, with a name of its own.

    Folders are searched recursively for files with a known suffix, in alphabetical order; hidden files, hidden folders
    and linked folders are left out, and so is ``output_folder``, whose overlays are pictures too.

    A name is the path below the folder argument (for a file, its name), without suffix. Pictures that would share it
    keep their suffix (``a.jpg``, ``a.png``). Where two arguments still give the same, all names are paths below the
    closest folder that holds every picture.

    Raises:
        FileNotFoundError: an argument does not exist, or a folder holds no picture.
        ImageError: an argument is no file but an address or a camera.
        ValueError: ``output_folder`` is one of the arguments.
    """
    found: dict[str, Picture] = {}  # by what the path leads to: a picture that is named twice is one picture
    left_out: Counter[str] = Counter()
    hidden = linked = 0
    excluded = os.path.realpath(output_folder) if output_folder else None
    for argument in map(Path, arguments):
        if argument.is_dir():
            if os.path.realpath(argument) == excluded:
                raise ValueError(
                    f"the results cannot go into {argument}, which is read: they would be taken for pictures next time"
                )
            walk = _Walk(argument, excluded)
            left_out += walk.left_out
            hidden, linked = hidden + walk.hidden, linked + walk.linked
            if not walk.paths:
                remark = Search([], walk.left_out, walk.hidden, walk.linked).remark()
                raise FileNotFoundError(
                    f"no pictures in {argument} (files ending in {', '.join(picture_suffixes())})"
                    + (f"; {remark}" if remark else "")
                )
            pictures = [Picture(path, path.relative_to(argument)) for path in walk.paths]
        elif argument.exists():
            pictures = [Picture(argument, Path(argument.name))]
        else:
            if (sentence := mismatch(argument, PICTURE)) is not None:
                raise ImageError(sentence)
            raise FileNotFoundError(f"there is no file or folder {argument}")
        for picture in pictures:
            found.setdefault(os.path.realpath(picture.path), picture)
    return Search(_with_distinct_names(list(found.values())), left_out, hidden, linked)


def picture_suffixes() -> tuple[str, ...]:
    """What is taken for a picture inside a folder, here."""
    return (*SUFFIXES, *HEIF_SUFFIXES) if can_read_heif() else SUFFIXES


class _Walk:
    """The pictures below a folder, ``paths``, and counts of what else is there."""

    def __init__(self, folder: Path, excluded: str | None) -> None:
        self.paths: list[Path] = []
        self.left_out: Counter[str] = Counter()
        self.hidden = self.linked = 0
        suffixes = picture_suffixes()
        for root, folders, files in os.walk(folder, onerror=_raise):
            here = Path(root)
            self.hidden += sum(name.startswith(".") for name in (*folders, *files))
            self.linked += sum((here / name).is_symlink() for name in folders if not name.startswith("."))
            # os.walk goes into no linked folder.
            folders[:] = sorted(f for f in folders if not f.startswith(".") and os.path.realpath(here / f) != excluded)
            for name in sorted(files):
                if name.startswith("."):
                    continue
                suffix = Path(name).suffix.lower()
                if suffix in suffixes:
                    self.paths.append(here / name)
                else:
                    self.left_out[suffix] += 1


def frames_remark(path: Path) -> str | None:
    """A sentence about a picture that holds several, of which only the first is taken; None for others.

    Of what cannot be read, nothing is said here.
    """
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(3) == b"\xff\xd8\xff":  # most pictures are JPEGs, and need not be opened twice
            return None
    from PIL import Image

    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1
            noun = "pages" if image.format == "TIFF" else "frames"
    except Exception:  # Pillow does not say what it raises on damaged files
        return None
    return f"{path} has {count} {noun}, and only the first is taken" if count > 1 else None


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
