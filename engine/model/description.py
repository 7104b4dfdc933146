"""What a graph and an engine say of themselves, typed: one reader, one writer, and everything judged when it is read.

A graph carries it as JSON in a metadata property (``graph_file``), an engine under ``model`` in its manifest
(``engine_file``), with what ``build`` adds: the fused ends, what was quantized, and what every layer runs as. Keys that
this version does not know are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..files.fields import Fields
from .compiled import Int8Description, Layer, NominalLoad
from .decoder import DecoderDescription
from .frame import FrameSettings

GRAPH_VERSION = 1

# Bounds that no real model meets: they keep a mistyped number from asking for terabytes.
_MOST_SIDE = 1 << 15  # pixels
_MOST_BOXES = 100_000
_MOST_CHANNELS = 4096
_MOST_MAPS = 64


@dataclass(frozen=True)
class InputQuantization:
    """How a picture becomes bytes: ``real = scale * (byte - zero_point)``."""

    scale: float
    zero_point: int

    @classmethod
    def from_json(cls, fields: Fields) -> InputQuantization:
        scale = fields.number("scale", 0, 1e30)
        if scale < 1e-30:
            raise fields.refuse("scale", "a number above 1e-30")
        return cls(scale, fields.integer("zero_point", 0, 255))

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale, "zero_point": self.zero_point}


@dataclass(frozen=True)
class InputDescription:
    """What the network takes.

    ``size``: (height, width) in pixels, None for any multiples of ``divisor``; ``mean_rgb``: of pixels 0 .. 255;
    ``min_size``, ``max_size``: what the shorter side of a picture is resized to, and the longer one at most, where
    ``size`` is None.
    """

    size: tuple[int, int] | None
    mean_rgb: tuple[float, float, float]
    min_size: int
    max_size: int
    divisor: int

    @classmethod
    def from_json(cls, fields: Fields) -> InputDescription:
        size = None if fields.raw("size") is None else fields.integers("size", 2, 1, _MOST_SIDE)
        red, green, blue = fields.numbers("mean_rgb", 3, -1e6, 1e6)
        description = cls(
            size=None if size is None else (size[0], size[1]),
            mean_rgb=(red, green, blue),
            min_size=fields.integer("min_size", 0, _MOST_SIDE),
            max_size=fields.integer("max_size", 1, _MOST_SIDE),
            divisor=fields.integer("divisor", 1, 1024),
        )
        if size is not None and any(side % description.divisor for side in size):
            raise fields.refuse("size", f"null or a height and a width, multiples of {description.divisor}")
        return description

    def to_json(self) -> dict[str, Any]:
        return {
            "divisor": self.divisor,
            "max_size": self.max_size,
            "mean_rgb": list(self.mean_rgb),
            "min_size": self.min_size,
            "size": list(self.size) if self.size else None,
        }


@dataclass(frozen=True)
class Capacity:
    """What the graph has room for: rows of its outputs, and of the proposals inside."""

    max_people: int
    max_proposals: int

    @classmethod
    def from_json(cls, fields: Fields) -> Capacity:
        return cls(fields.integer("max_people", 1, _MOST_BOXES), fields.integer("max_proposals", 1, _MOST_BOXES))

    def to_json(self) -> dict[str, Any]:
        return {"max_people": self.max_people, "max_proposals": self.max_proposals}


def _settings_from_json(fields: Fields) -> FrameSettings:
    return FrameSettings(
        score_threshold=fields.number("score_threshold", 0, 1),
        nms_threshold=fields.number("nms_threshold", 0, 1),
        max_people=fields.integer("max_people", 0, _MOST_BOXES),
        max_proposals=fields.integer("max_proposals", 0, _MOST_BOXES),
    )


def _settings_to_json(settings: FrameSettings) -> dict[str, Any]:
    return {
        "max_people": settings.max_people,
        "max_proposals": settings.max_proposals,
        "nms_threshold": settings.nms_threshold,
        "score_threshold": settings.score_threshold,
    }


@dataclass(frozen=True)
class PackedMaps:
    """All maps in one output ``maps``: channels of each in their order, the side of a cell, the layout.

    They are the attributes of the op ``ChartResult`` with the same names.
    """

    channels: tuple[int, ...]
    block: int
    layout: str

    @classmethod
    def from_json(cls, fields: Fields) -> PackedMaps:
        return cls(
            channels=fields.integers("channels", (1, _MOST_MAPS), 1, _MOST_CHANNELS),
            block=fields.integer("block", 1, 64),
            layout=fields.text("layout", ("NCHW", "NHWC")),
        )

    def to_json(self) -> dict[str, Any]:
        return {"channels": list(self.channels), "block": self.block, "layout": self.layout}


@dataclass(frozen=True)
class FusedEnds:
    """What ``build`` did to the ends of the graph: bytes in (with ``quantization``), all maps in one tensor out.

    None where the graph would not let itself be changed so.
    """

    packed_maps: PackedMaps | None
    quantization: InputQuantization | None


@dataclass(frozen=True)
class ModelDescription:
    """What a graph, or the engine made of it, says of itself.

    ``architecture``: a short name such as "efficientnet_lite0-bifpn64-deeplab"; ``defaults``: the settings of its
    configuration, which may exceed its ``capacity``; ``maps``: outputs for each person; ``decoder``: who reads
    them; ``cut_points``: names of tensors by stage; ``provenance``: where configuration and weights come from, for
    people.

    What ``build`` adds: ``ends``, of backends that change the graph's ends; ``int8``; ``layers`` and the
    ``layers_counted_for``. ``others``: keys of which this version knows nothing.
    """

    architecture: str
    input: InputDescription
    defaults: FrameSettings
    capacity: Capacity
    maps: tuple[str, ...]
    cut_points: Mapping[str, tuple[str, ...]]
    provenance: Mapping[str, Any]
    graph_version: int = GRAPH_VERSION
    decoder: DecoderDescription = field(default_factory=DecoderDescription)
    ends: FusedEnds | None = None
    int8: Int8Description | None = None
    layers: tuple[Layer, ...] | None = None
    layers_counted_for: NominalLoad | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def packed_maps(self) -> PackedMaps | None:
        """How all maps are in one tensor; None where each is an output of its own."""
        return self.ends.packed_maps if self.ends else None

    @property
    def input_quantization(self) -> InputQuantization | None:
        """How the graph takes bytes; None where it takes floats."""
        return self.ends.quantization if self.ends else None

    @classmethod
    def from_json(cls, data: object, where: str = "") -> ModelDescription:
        """Read what ``to_json`` wrote; ``where`` is the key that it stands under.

        Raises:
            FieldError: a key is missing, or a value is of another type or out of range; the message names it.
        """
        fields = Fields(data, where)
        maps = fields.texts("maps", 1, _MOST_MAPS)
        if len(set(maps)) != len(maps):
            raise fields.refuse("maps", "a list of different names")
        return cls(
            architecture=fields.text("architecture"),
            input=InputDescription.from_json(fields.section("input")),
            defaults=_settings_from_json(fields.section("defaults")),
            capacity=Capacity.from_json(fields.section("capacity")),
            maps=maps,
            cut_points=_cut_points(fields),
            provenance=fields.plain_object("provenance") if "provenance" in fields else {},
            graph_version=fields.integer("graph_version", 1, 1 << 30),
            decoder=DecoderDescription.from_json(fields.section("decoder"))
            if "decoder" in fields
            else DecoderDescription(),
            ends=_ends(fields, len(maps)),
            int8=None if fields.is_null("int8") else Int8Description.from_json(fields.section("int8")),
            layers=None if fields.is_null("layers") else tuple(map(Layer.from_json, fields.rows("layers"))),
            layers_counted_for=None
            if fields.is_null("layers_counted_for")
            else NominalLoad.from_json(fields.section("layers_counted_for")),
            others={key: fields.plain(key) for key in fields if key not in _KEYS},
        )

    def to_json(self) -> dict[str, Any]:
        """For JSON: plain dictionaries and lists, which are the caller's own."""
        network = self.input.to_json()
        if self.ends is not None:
            quantization = self.ends.quantization
            network["quantization"] = quantization.to_json() if quantization else None
        result: dict[str, Any] = {
            "architecture": self.architecture,
            "capacity": self.capacity.to_json(),
            "cut_points": {name: list(tensors) for name, tensors in self.cut_points.items()},
            "defaults": _settings_to_json(self.defaults),
            "graph_version": self.graph_version,
            "input": network,
            "maps": list(self.maps),
            "provenance": _copy(self.provenance),
            **{key: _copy(value) for key, value in self.others.items()},
        }
        if self.decoder != DecoderDescription():  # charts are what a description without it means
            result["decoder"] = self.decoder.to_json()
        if self.int8 is not None:
            result["int8"] = self.int8.to_json()
        if self.ends is not None:
            result["packed_maps"] = self.ends.packed_maps.to_json() if self.ends.packed_maps else None
        if self.layers is not None:
            result["layers"] = [layer.to_json() for layer in self.layers]
        if self.layers_counted_for is not None:
            result["layers_counted_for"] = self.layers_counted_for.to_json()
        return result


_KEYS = {
    *("architecture", "capacity", "cut_points", "defaults", "graph_version", "input", "maps", "provenance"),
    *("decoder", "int8", "packed_maps", "layers", "layers_counted_for"),
}


def _cut_points(fields: Fields) -> dict[str, tuple[str, ...]]:
    if "cut_points" not in fields:
        return {}
    section = fields.section("cut_points")
    return {name: section.texts(name) for name in section}


def _ends(fields: Fields, maps: int) -> FusedEnds | None:
    network = fields.section("input")
    if "packed_maps" not in fields and "quantization" not in network:
        return None
    packed = None if fields.is_null("packed_maps") else PackedMaps.from_json(fields.section("packed_maps"))
    if packed is not None and len(packed.channels) != maps:
        raise fields.section("packed_maps").refuse("channels", f"a list of {maps} integers, one for each map")
    quantization = (
        None if network.is_null("quantization") else InputQuantization.from_json(network.section("quantization"))
    )
    return FusedEnds(packed, quantization)


def _copy(value: Any) -> Any:
    """Of plain JSON data."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list | tuple) else value
