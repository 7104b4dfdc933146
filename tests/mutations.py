"""Damage with a seed: of bytes, and of plain data whose structure stays good."""

from __future__ import annotations

import copy
import random
from typing import Any

TOKENS = (b"", b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80", b"PK\x01\x02", b"{", b"[" * 50, b"1e999", b"9" * 60)
NUMBERS: tuple[Any, ...] = (True, -1, 0, 1, 255, 1 << 31, 1 << 62, 1 << 64, 10**400, -0.5, 1e30, 1e308, float("inf"))
VALUES: tuple[Any, ...] = (*NUMBERS, None, "", "x", "x" * 3000, "\ud800", [], {}, [[]], {"a": 1}, [1, 2], ["a"])


def mutate_bytes(random_: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Some bytes changed, inserted, taken away or repeated, or a piece of ``other`` put in; often one byte alone."""
    result = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 4, 16))):
        at = random_.randrange(len(result) + 1)
        match random_.randrange(7):
            case 0 | 1 if at < len(result):
                result[at] ^= 1 << random_.randrange(8)
            case 2:
                result[at:at] = random_.choice(TOKENS)
            case 3:
                del result[at : at + random_.choice((1, 2, 8, 64))]
            case 4:
                result[at : at + 4] = random_.randbytes(4)
            case 5 if other:
                start = random_.randrange(len(other))
                result[at:at] = other[start : start + random_.randrange(1, 64)]
            case 6 if random_.random() < 0.3:
                del result[at:]
    return bytes(result)


def nested(random_: random.Random) -> Any:
    """A list in a list in a list, or the same of dictionaries."""
    value: Any = 1
    for _ in range(random_.choice((5, 60, 400))):
        value = [value] if random_.random() < 0.5 else {"a": value}
    return value


def mutate_data(random_: random.Random, data: Any) -> Any:
    """A copy of plain data with keys taken away, renamed or exchanged, and values replaced."""
    data = copy.deepcopy(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            break
        place, key = random_.choice(places)
        match random_.randrange(8):
            case 0:
                place.pop(key)
            case 1 if isinstance(place, dict):
                place[f"{key}x"] = place.pop(key)
            case 2:
                other, name = random_.choice(places)
                place[key] = copy.deepcopy(other[name])
            case 3:
                place[key] = nested(random_)
            case 4 if isinstance(place[key], list):
                place[key] = place[key] * random_.choice((0, 2, 50))
            case 5 if isinstance(place[key], int | float) and not isinstance(place[key], bool):
                place[key] = place[key] * random_.choice((-1, 0.5, 2, 1e6))
            case _:
                place[key] = copy.deepcopy(random_.choice(VALUES))
    return data


def _places(value: Any, depth: int = 20) -> Any:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    # Of long lists of numbers, some.
    for key in list(keys)[:40]:
        yield value, key
        if depth:
            yield from _places(value[key], depth - 1)
