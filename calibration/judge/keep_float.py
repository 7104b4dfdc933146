"""Moving the worst layers back to float until INT8 loses no more than the user allows.

What it loses is a number that the caller measures: calibration runs no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import BuildError

#: More layers than these in float are another engine; then INT8 is not what the model needs.
MOST_LAYERS = 16


@dataclass(frozen=True)
class Step:
    """One layer that went back to float: the drop with it, and how much less that is than before."""

    layer: str
    drop: float
    bought: float


@dataclass(frozen=True)
class Choice:
    """What was chosen. ``before`` and ``after`` are the drop of the engine without and with ``steps``."""

    bound: float
    before: float
    after: float
    steps: tuple[Step, ...]
    rejected: tuple[str, ...]
    """Layers that were tried and bought nothing; they run in INT8."""

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def choose(
    drop: Callable[[Collection[str]], float],
    ranking: Callable[[], Iterable[str]],
    bound: float,
    *,
    keep_float: Collection[str] = (),
    most: int = MOST_LAYERS,
    notify: Callable[[str], None] = lambda text: None,
) -> Choice:
    """Move layers to float, one after the other, until the drop is at most ``bound``.

    A layer that buys nothing goes back to INT8. It ends with the ranking, or with ``most`` layers in float.

    Args:
        drop: of an engine with these layers in float; each call builds and measures one.
        ranking: the worst layers first; asked for only where the bound is not kept without.
        keep_float: who is float in any case.
        notify: called with a sentence after each measurement.

    Raises:
        BuildError: the bound cannot be kept; its message names the layers that bought most.
    """
    kept = list(keep_float)
    before = current = drop(kept)
    notify(f"drop {before:.2f}, allowed {bound:.2f}")
    steps: list[Step] = []
    rejected: list[str] = []
    for layer in ranking() if current > bound else ():
        after = drop([*kept, layer])
        bought = current - after
        if bought <= 0:
            rejected.append(layer)
            notify(f"{layer} in float: drop {after:.2f}, it buys nothing and stays INT8")
            continue
        notify(f"{layer} in float: drop {after:.2f}, it buys {bought:.2f}")
        kept.append(layer)
        steps.append(Step(layer, after, bought))
        current = after
        if current <= bound or len(steps) == most:
            break
    if current > bound:
        names = ",".join(kept)
        found = f"the best found is {current:.2f}, with --keep-float {names}" if steps else "no layer in float helps"
        raise BuildError(
            f"the drop of {before:.2f} cannot be brought down to {bound:.2f} by keeping layers in float: {found}; "
            "allow more, calibrate on more pictures like those that it is measured on, or use --precision bf16"
        )
    return Choice(bound, before, current, tuple(steps), tuple(rejected))
