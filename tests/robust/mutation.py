"""How inputs are changed: bytes, numbers and trees of JSON, always by the given generator of random numbers."""

from __future__ import annotations

import copy
import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

Path = tuple[Any, ...]

INTEGERS = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 10**7, 10**9),
    *(2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400),
)
VALUES: tuple[Any, ...] = (
    *INTEGERS,
    *(0.0, -0.0, 0.5, 1e308, -1e308, 1e39, 1e-320, math.nan, math.inf, -math.inf),
    *(None, True, False, "", "x", "a" * 5000, "\0", "\ud800", "../../x", "é", "NHWC", "nan"),
    *([], {}, [[]], [1, 2], [320, 448], {"a": 1}, [None], ["x"], [0, 0], [-1, -1], [1e300] * 2),
)
_MOST_REPEATED = 1000


def nested(rng: Random) -> Any:
    """Lists and mappings in each other, up to where Python's own recursion ends."""
    value: Any = 0
    for _ in range(rng.choice([5, 50, 300, 480, 900])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def paths(tree: Any, prefix: Path = ()) -> Iterator[Path]:
    """Where every value of a tree of JSON is; the tree itself is ()."""
    left: list[tuple[Any, Path]] = [(tree, prefix)]  # no recursion: some trees are deeper than Python's stack
    while left:
        value, path = left.pop()
        yield path
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [(child, (*path, key)) for key, child in reversed(list(children))]


def changed_tree(tree: Any, rng: Random, places: Sequence[Path] | None = None) -> Any:
    """A copy of a tree of JSON with one to five of its values changed; ``places`` says which may be."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 1, 2, 3, 5])):
        place = rng.choice([path for path in (places or list(paths(tree))) if path])
        parent = tree
        try:
            for key in place[:-1]:
                parent = parent[key]
            _change(parent, place[-1], rng)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return tree


def _change(parent: Any, key: Any, rng: Random) -> None:
    value, kind = parent[key], rng.random()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind < 0.12:
        del parent[key]
    elif kind < 0.2:
        parent[key] = nested(rng)
    elif kind < 0.32 and number and math.isfinite(value) and abs(value) < 1e300:
        parent[key] = rng.choice([-value, value + 1, value - 1, value * 2, value * 1000, value / 3, float(value)])
    elif kind < 0.38 and isinstance(value, list):
        parent[key] = value * rng.choice([0, 2, 3, 100]) if len(value) < _MOST_REPEATED else value[:1]
    elif kind < 0.42 and isinstance(parent, dict):
        parent[rng.choice(list(parent))] = value
    elif kind < 0.46 and isinstance(value, dict):
        parent[key] = {**value, rng.choice(["", "x", "a" * 3000, "\n"]): rng.choice(VALUES)}
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))


def changed_bytes(data: bytes, rng: Random, other: bytes = b"", changes: int | None = None) -> bytes:
    """``data`` with one to 32 changes: bits, integers, pieces left out, doubled, moved, or taken of ``other``."""
    result = bytearray(data)
    for _ in range(changes or rng.choice([1, 1, 1, 2, 4, 8, 32])):
        if not result:
            result = bytearray(b"\0")
        _change_bytes(result, rng, other)
    return bytes(result)


def _change_bytes(data: bytearray, rng: Random, other: bytes) -> None:
    kind, at = rng.random(), rng.randrange(len(data))
    if kind < 0.25:
        data[at] ^= 1 << rng.randrange(8)
    elif kind < 0.45:
        data[at] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
    elif kind < 0.55:
        width = rng.choice([2, 4, 8])
        top = 1 << (8 * width)
        value = rng.choice([0, 1, top - 1, top // 2, top // 2 - 1, rng.randrange(top), rng.randrange(70_000) % top])
        data[at : at + width] = value.to_bytes(width, "little" if rng.random() < 0.5 else "big")
    elif kind < 0.63:
        del data[at : at + rng.choice([1, 2, 4, 16, rng.randrange(1, len(data) + 1)])]
    elif kind < 0.71:
        data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 16]))
    elif kind < 0.79:
        start = rng.randrange(len(data))
        data[at:at] = data[start : start + rng.choice([1, 4, 16, 64, 256])]
    elif kind < 0.85:
        start, length = rng.randrange(len(data)), rng.choice([1, 4, 16, 64])
        data[at : at + length] = data[start : start + length]
    elif kind < 0.9:
        del data[at:]
    elif other:
        start, length = rng.randrange(len(other)), rng.choice([4, 16, 64, 512])
        data[at : at + length] = other[start : start + length]
    else:
        data[at] = rng.randrange(256)


def changed_archive(data: bytes, rng: Random, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip in which one or two members are changed or missing, with right checksums around them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(sorted(members))
        if rng.random() < 0.15 and len(members) > 1:
            del members[name]
        else:
            members[name] = changed_bytes(members[name], rng, members[rng.choice(sorted(members))])
    return archived(members, method)


def archived(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()
