"""Whether the pictures that were calibrated on are many enough, and different enough, to stand for others."""

from __future__ import annotations

import numpy as np

#: Fewer pictures than these are said to be few (see ``docs/int8.md``).
FEW = 32
_SIDE = 16  # of a thumbnail
_SAMPLED = 256  # rows or columns of the picture that it is made of, about
# Grey levels that a copy may differ by everywhere: compressed again, it differs by one.
_SAME = 3


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    """uint8 [16, 16]: mean grey levels of the cells of a uint8 RGB picture [height, width, 3] of any size."""
    rows, columns = (np.linspace(0, side, max(min(_SAMPLED, side), _SIDE), endpoint=False) for side in rgb.shape[:2])
    grey = rgb[rows.astype(np.intp)[:, None], columns.astype(np.intp)].mean(axis=2)
    heights, widths = (np.array_split(np.arange(side), _SIDE) for side in grey.shape)
    sums = np.add.reduceat(grey, [cell[0] for cell in heights], axis=0)
    sums = np.add.reduceat(sums, [cell[0] for cell in widths], axis=1)
    sizes = np.outer([len(cell) for cell in heights], [len(cell) for cell in widths])
    return np.rint(sums / sizes).astype(np.uint8)


def distinct(thumbnails: np.ndarray) -> int:
    """How many different pictures there are among these, [N, 16, 16]: copies, also compressed anew, count as one."""
    different: list[np.ndarray] = []
    for one in thumbnails.astype(np.int16):
        if all(np.abs(one - other).max() > _SAME for other in different):
            different.append(one)
    return len(different)


def remarks(thumbnails: np.ndarray, available: int) -> list[str]:
    """What the user should know of the pictures that were used; nothing where they are many and different.

    Args:
        thumbnails: of the pictures that were used, [N, 16, 16].
        available: how many pictures there were to choose from.
    """
    used, different = len(thumbnails), distinct(thumbnails)
    found = []
    if different < used and (different < FEW or different <= used / 2):
        found.append(
            f"only {different} of the {used} pictures {'is' if different == 1 else 'are'} different, the others are "
            f"copies or show the same: the table knows what {different} can tell; calibrate on different pictures"
        )
    elif used < FEW:
        more = f"raise --count (there are {available} pictures)" if available >= FEW else "add pictures"
        found.append(
            f"calibrated on {used} {'picture' if used == 1 else 'pictures'}, which is few: ranges are chosen from what "
            f"these show, and what other pictures have beyond that is clipped; {more} to have {FEW} or more that are "
            "like what the engine will see"
        )
    return found
