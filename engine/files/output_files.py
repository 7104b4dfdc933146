"""Files that appear whole or not at all, and none that takes another's place unasked."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_NAMED = 5  # how many files a message names before it counts the rest
_NAME_LIMIT, _PATH_LIMIT = 255, 4096  # bytes, where the file system does not say
_SHOWN = 60  # characters of a name that is too long
_TOKEN = 8  # bytes of a temporary name, two digits each

#: What a system call says when the place itself takes nothing more, whatever the file.
PLACE_IS_GONE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN)
)
#: What only writing is answered with: an error of these is one of an output, whoever raises it.
OUTPUT_ERRNOS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))

# Temporary files that exist now. An interruption can come in the very line that would remove one.
_unfinished: set[Path] = set()


class OutputError(OSError):
    """An output file is in the way, or cannot be written; ``cause``: the number of the system's error, or None."""

    def __init__(self, message: str, cause: int | None = None) -> None:
        super().__init__(message)
        self.cause = cause


def cannot_write(path: Path, error: OSError) -> OutputError:
    """What to raise where the system refused to write ``path``."""
    return OutputError(f"cannot write {path}: {error.strerror or error}", error.errno)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """What the system refuses inside the block is an ``OutputError`` about ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path``, with its suffix, to be written to; moves it to ``path`` if the block succeeds.

    Folders are made as needed. Raises ``OutputError`` where the system refuses.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as temporary:
            yield temporary


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """The same in a folder that is there; what the system refuses is its own ``OSError``."""
    # Not a longer name than the target's would have to be: names have a limit.
    temporary = path.with_name(_temporary_name(path))
    _unfinished.add(temporary)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def _temporary_name(path: Path) -> str:
    return f".{secrets.token_hex(_TOKEN)}{path.suffix}"


def remove_unfinished() -> None:
    """Remove the temporary files that an interruption left, when nothing is being written any more."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink(missing_ok=True)
        _unfinished.discard(path)


def takes_files(folder: Path) -> bool:
    """Whether a file can be made in ``folder``, which may not be there yet; permissions do not say all, so one is."""
    probe = folder / _temporary_name(Path("probe"))
    _unfinished.add(probe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        _unfinished.discard(probe)
    return True


def write_all(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write several outputs of one piece of work: ``writers[path](temporary path)`` each, whole or not at all.

    One that cannot be written does not keep the others from it. Raises ``OutputError`` at the end, about all of them.
    """
    errors: list[OutputError] = []
    for path, write in writers.items():
        try:
            with atomic_output(path) as temporary:
                write(temporary)
        except OutputError as error:
            errors.append(error)
    if errors:
        raise OutputError("; ".join(map(str, errors)), errors[0].cause) from errors[0]


def check_outputs(paths: Iterable[Path], force: bool) -> None:
    """Refuse before the work what would fail after it.

    Raises ``OutputError``: with the names of files in the way (not with ``force``), or where a name is too long for the
    file system, or its place cannot be written to.
    """
    taken = []
    places: dict[Path, tuple[Path, int, int]] = {}  # of a thousand pictures, most go to the same
    for path in paths:
        if path.parent not in places:
            places[path.parent] = _place(path)
        existing, name_limit, path_limit = places[path.parent]
        _check_length(path, existing, name_limit, path_limit)
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if os.path.lexists(path):
            taken.append(path)
            if not (path.is_file() or path.is_symlink()):
                raise OutputError(f"cannot write {path}: it is no regular file, and would be replaced by one")
    if taken and not force:
        names = ", ".join(map(str, taken[:_NAMED]))
        rest = f" and {len(taken) - _NAMED} more" if len(taken) > _NAMED else ""
        exist = "exists" if len(taken) == 1 else "exist"
        raise OutputError(f"{names}{rest} {exist} already; --force overwrites, -o names another place")


def _place(path: Path) -> tuple[Path, int, int]:
    """The folder that is there already on the way to ``path``, which takes files, and its limits of name and path."""
    existing = next((parent for parent in (path.parent, *path.parent.parents) if _exists(parent)), Path())
    if not existing.is_dir():
        raise OutputError(f"cannot write {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write into {existing}")
    limits = []
    for name, usual in (("PC_NAME_MAX", _NAME_LIMIT), ("PC_PATH_MAX", _PATH_LIMIT)):
        try:
            found = os.pathconf(existing, name)
        except (OSError, ValueError):
            found = usual
        limits.append(found if found > 0 else usual)
    return existing, limits[0], limits[1]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long, among others: what is inside a folder of this name cannot be there
        return False


def _check_length(path: Path, existing: Path, name_limit: int, path_limit: int) -> None:
    longest = max(path.name, _temporary_name(path), key=lambda name: len(os.fsencode(name)))
    for name in (*path.relative_to(existing).parts[:-1], longest):
        if (length := len(os.fsencode(name))) > name_limit:
            raise OutputError(
                f"cannot write {_short(path)}: the name {_short(name)} has {length} bytes, and {existing} takes "
                f"{name_limit}; "
                "-o names another place, and files are called after their inputs",
                errno.ENAMETOOLONG,
            )
    # The null character at the end counts.
    if (length := len(os.fsencode(path.with_name(longest))) + 1) > path_limit:
        raise OutputError(
            f"cannot write {_short(path)}: its path has {length} bytes, and the system takes {path_limit}; -o names a "
            "place that is not as deep",
            errno.ENAMETOOLONG,
        )


def _short(name: str | Path) -> str:
    text = str(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
