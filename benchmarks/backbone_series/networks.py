"""The networks of both series: configurations with another backbone each, and what was published of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = ROOT / "tests" / "data" / "keys"
PUBLISHED = Path(__file__).with_name("published.json")

PROPOSALS, PEOPLE = 100, 2
#: Every picture has so many people, whatever their scores and however they overlap: the weights are no detector's.
_FORCED: tuple[str, ...] = ("MODEL.RPN.POST_NMS_TOPK_TEST", str(PROPOSALS), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
_FORCED += ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "1.0", "TEST.DETECTIONS_PER_IMAGE", str(PEOPLE))

#: What all others are compared with, in series a and b alike: its engine takes turns with theirs.
YARDSTICK = "densepose_rcnn_R_50"
_BASELINES = {
    YARDSTICK: ("DensePose R-CNN R50", "densepose_rcnn_R_50_FPN_s1x_legacy.yaml"),
    "parsing_rcnn_R_50": ("Parsing R-CNN R50", "gen1_parsing_rcnn_R_50_FPN_s1x.yaml"),
}
# These come first, so that a run that is cut short has something to say.
_FIRST = (
    YARDSTICK,
    "spnasnet_100",
    "efficientnet_b0",
    "tf_efficientnet_es",
    "tf_efficientnet_em",
    "tf_mobilenetv3_large_100",
    "tf_mobilenetv3_small_100",
    "mixnet_m",
    "mnasnet_a1",
    "mnasnet_b1",
    "parsing_rcnn_R_50",
)
#: What each series is, for headings.
SERIES = {
    "a": "Mobile-RCNN A in the first generation's arithmetic (edge residuals stride in conv_pwl), and two baselines",
    "b": "Mobile-Parsing-RCNN-B as the second generation has it; no AP was published for these",
}
SIZES = {"a": ((320, 448), (800, 1088)), "b": ((320, 448),)}


@dataclass(frozen=True)
class Network:
    """One network at one input size: ``key`` is its folder in the state, ``overrides`` change its YAML.

    ``published``: "box_ap", "gps_ap", "parameters_m" and "top1" as the paper's authors give them, or None.
    """

    series: str
    name: str
    size: tuple[int, int]
    title: str
    configuration: Path
    overrides: tuple[str, ...]
    published: dict[str, float] | None = field(compare=False)

    @property
    def key(self) -> str:
        height, width = self.size
        return f"{self.series}/{height}x{width}/{self.name}"

    @property
    def is_baseline(self) -> bool:
        return self.name in _BASELINES

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.title} (series {self.series}, {height}x{width})"


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """The table of published figures: "source", "what", and "networks" by name."""
    table: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return table


def _backbones() -> list[str]:
    from densepose_engine.export.networks.mobile_architectures import MOBILE_ARCHITECTURES

    return sorted(MOBILE_ARCHITECTURES)


def _first_generation(name: str, size: tuple[int, int]) -> Network:
    figures = published()["networks"][name]
    if name in _BASELINES:
        title, yaml = _BASELINES[name]
        return Network("a", name, size, title, CONFIGURATIONS / yaml, _FORCED, figures)
    overrides: tuple[str, ...] = (*_FORCED, "MODEL.EFFICIENTNETS.NAME", name)
    if name.startswith("tf_mobilenetv3_small"):
        # They halve in stage 0 already, so that strides 4 to 32 are one stage earlier.
        stages = "['s0', 's1', 's2', 's4']"
        overrides += ("MODEL.EFFICIENTNETS.OUT_FEATURES", stages, "MODEL.FPN.IN_FEATURES", stages)
    return Network("a", name, size, name, CONFIGURATIONS / "gen1_mobile_rcnn_a.yaml", overrides, figures)


def _second_generation(name: str, size: tuple[int, int]) -> Network:
    overrides = (*_FORCED, "MODEL.TIMMNETS.NAME", name, "MODEL.TIMMNETS.PRETRAINED", "False")
    return Network("b", name, size, name, CONFIGURATIONS / "mobile_parsing_rcnn_b_spnasnet_100.yaml", overrides, None)


def networks(
    series: Iterable[str] = tuple(SERIES),
    sizes: Iterable[tuple[int, int]] | None = None,
    only: Iterable[str] | None = None,
) -> list[Network]:
    """The networks of these series, sizes (None: all that belong to a series) and names (None: all), the most telling
    first. Raises ``ValueError`` for what does not exist."""
    wanted_sizes = None if sizes is None else set(sizes)
    names = {"a": list(published()["networks"]), "b": _backbones()}
    found = []
    for one in series:
        ordered = [name for name in _FIRST if name in names[one]]
        ordered += [name for name in names[one] if name not in _FIRST]
        make = _first_generation if one == "a" else _second_generation
        chosen = [size for size in SIZES[one] if wanted_sizes is None or size in wanted_sizes]
        found += [make(name, size) for size in chosen for name in ordered]
    if not found:
        known = ", ".join(f"{h}x{w} of series {one}" for one, sizes in SIZES.items() for h, w in sizes)
        raise ValueError(f"no network of these series has these sizes; there are {known}")
    if only is None:
        return found
    wanted = list(only)
    if unknown := [name for name in wanted if name not in {network.name for network in found}]:
        known = ", ".join(dict.fromkeys(network.name for network in found))
        raise ValueError(f"no network is called {', '.join(unknown)}; there are {known}")
    return [network for network in found if network.name in wanted]


def yardstick(size: tuple[int, int]) -> Network:
    """The network that all of this size are compared with."""
    return _first_generation(YARDSTICK, size)
