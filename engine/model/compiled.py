"""What ``build`` adds to a graph's description: what was quantized, what every layer runs as, and for which load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..files.fields import Fields

_MOST_SIDE = 1 << 15  # pixels
_MOST_BOXES = 100_000
_MOST_MACS = 1 << 60
_MOST_COUNT = 1 << 62


@dataclass(frozen=True)
class CalibrationOrigin:
    """The pictures that an INT8 engine was calibrated on: how many, their SHA-256, how many people the graph found."""

    pictures: int
    sha256: str
    people: int

    @classmethod
    def from_json(cls, fields: Fields) -> CalibrationOrigin:
        return cls(
            pictures=fields.integer("pictures", 0, _MOST_COUNT),
            sha256=fields.sha256("sha256"),
            people=fields.integer("people", 0, _MOST_COUNT),
        )

    def to_json(self) -> dict[str, Any]:
        return {"pictures": self.pictures, "sha256": self.sha256, "people": self.people}


@dataclass(frozen=True)
class Int8Description:
    """What was quantized, and how.

    ``observer``, ``adapted_weights``: see ``build.Int8Options``; ``keep_float``: layers that were to stay float;
    ``shared_scales``: groups of tensors with one scale each; ``target``: the vendor whose rules were followed, in a
    graph with Q/DQ; ``placed``: layers that are to run in INT8, until the engine's layers say what they run as;
    ``branches``: layers of side branches, which are float by design, where the engine says so; ``record``: what else
    is said of how this was chosen, such as ``auto``.
    """

    observer: str
    adapted_weights: bool | Literal["biases"]
    keep_float: tuple[str, ...]
    shared_scales: tuple[tuple[str, ...], ...]
    calibration: CalibrationOrigin
    target: str | None = None
    placed: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Fields) -> Int8Description:
        groups = fields.raw("shared_scales")
        if not isinstance(groups, list):
            raise fields.refuse("shared_scales", "a list of lists of names")
        numbered = Fields({str(index): group for index, group in enumerate(groups)}, fields.name("shared_scales"))
        return cls(
            observer=fields.text("observer"),
            adapted_weights="biases" if fields.raw("adapted_weights") == "biases" else fields.flag("adapted_weights"),
            keep_float=fields.texts("keep_float"),
            shared_scales=tuple(numbered.texts(index) for index in numbered),
            calibration=CalibrationOrigin.from_json(fields.section("calibration")),
            target=None if fields.is_null("target") else fields.text("target"),
            placed=None if fields.is_null("placed") else fields.texts("placed"),
            branches=None if fields.is_null("branches") else fields.texts("branches"),
            record={key: fields.plain(key) for key in fields if key not in _INT8_KEYS},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            **({} if self.target is None else {"target": self.target}),
            "observer": self.observer,
            "adapted_weights": self.adapted_weights,
            **({} if self.placed is None else {"placed": list(self.placed)}),
            "keep_float": list(self.keep_float),
            **({} if self.branches is None else {"branches": list(self.branches)}),
            "shared_scales": [list(group) for group in self.shared_scales],
            "calibration": self.calibration.to_json(),
            **self.record,
        }


_INT8_KEYS = {
    "target",
    "observer",
    "adapted_weights",
    "placed",
    "keep_float",
    "branches",
    "shared_scales",
    "calibration",
}


@dataclass(frozen=True)
class Layer:
    """One layer of the compiled graph.

    ``name``: "stage/layer"; ``precision``: that of its inner loop ("int8", "f32", "f16", "bf16", "unknown");
    ``kernel``: the vendor's name of what runs; ``macs``: multiply-accumulates for one picture of the nominal size;
    ``reason``: of an INT8 engine's layer that is not INT8, one of ``layer_precision.REASONS``.
    """

    name: str
    type: str
    precision: str
    kernel: str
    macs: int
    reason: str | None = None

    @property
    def stage(self) -> str:
        """ "backbone", "neck", "rpn", "box" or "densepose"."""
        return self.name.split("/")[0]

    @classmethod
    def from_json(cls, fields: Fields) -> Layer:
        kernel = fields.raw("kernel")
        return cls(
            name=fields.text("name"),
            type=fields.text("type"),
            precision=fields.text("precision"),
            kernel="" if kernel == "" else fields.text("kernel"),
            macs=fields.integer("macs", 0, _MOST_MACS),
            reason=None if fields.is_null("reason") else fields.text("reason"),
        )

    def to_json(self) -> dict[str, Any]:
        values = {
            "name": self.name,
            "type": self.type,
            "precision": self.precision,
            "kernel": self.kernel,
            "macs": self.macs,
        }
        return values if self.reason is None else {**values, "reason": self.reason}


@dataclass(frozen=True)
class NominalLoad:
    """What layers' MACs are counted for: the input's size, and how many boxes each head looks at, by its stage."""

    image: tuple[int, int]
    rows: Mapping[str, int]

    @classmethod
    def from_json(cls, fields: Fields) -> NominalLoad:
        height, width = fields.integers("image", 2, 1, _MOST_SIDE)
        return cls((height, width), {key: fields.integer(key, 0, _MOST_BOXES) for key in fields if key != "image"})

    def to_json(self) -> dict[str, Any]:
        return {"image": list(self.image), **self.rows}
