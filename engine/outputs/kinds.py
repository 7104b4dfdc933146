"""The files that ``infer`` makes of a picture, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..decoders import DECODERS, DetectionResult
from ..decoders.layers import BOXES, DataImage
from ..pictures.find import Picture

if TYPE_CHECKING:
    import numpy as np

#: Orders of an IUV file's channels. "iuv": part, U * 255 and V * 255 as red, green and blue. "vui": the reverse, in
#: which ``cv2.imread``, which gives blue first, has the part in channel 0.
IUV_ORDERS = ("iuv", "vui")
# Of zlib's levels, what costs a third of the default's time for a tenth more bytes.
_PNG_COMPRESSION = 3


@dataclass(frozen=True)
class Look:
    """How results are drawn.

    ``score_threshold``: people with a higher score are drawn, 0 for everybody; ``iuv_order``: one of ``IUV_ORDERS``.
    """

    score_threshold: float
    iuv_order: str = IUV_ORDERS[0]


@dataclass(frozen=True)
class OutputKind:
    """A file that can be made of every picture.

    ``render(rgb, result, look)``: what is to be seen of it, uint8 RGB of the picture's size; None for a file that is no
    picture. ``data``: it holds values, of which any change by a codec would be a wrong one.
    """

    suffix: str
    render: Callable[[np.ndarray, DetectionResult, Look], np.ndarray] | None = None
    data: bool = False

    def save(self, rgb: np.ndarray, result: DetectionResult, look: Look, path: Path) -> None:
        """Write the file. Raises ``OSError``."""
        if self.render is None:
            result.save(path)
        else:
            _save_png(self.render(rgb, result, look), path)


def _overlay(*layers: str) -> OutputKind:
    def render(rgb: np.ndarray, result: DetectionResult, look: Look) -> np.ndarray:
        from .overlays import draw

        return draw(rgb, result, layers, score_threshold=look.score_threshold)

    return OutputKind(f".{layers[0]}.png", render)


def _data_image(name: str, image: DataImage) -> OutputKind:
    def render(rgb: np.ndarray, result: DetectionResult, look: Look) -> np.ndarray:
        from .overlays import people_above

        made = image.render(people_above(result, look.score_threshold))
        return made if look.iuv_order == "iuv" else made[..., ::-1]

    return OutputKind(f".{name}.png", render, data=True)


NPZ = "npz"
_NPZ = OutputKind(".npz", data=True)


def kinds_of(result: type[DetectionResult]) -> Mapping[str, OutputKind]:
    """What can be made of results of a kind, by the names that ``--save`` takes; the first is looked at most."""
    overlays = {name: _overlay(name, *((BOXES,) if layer.boxes else ())) for name, layer in result.layers.items()}
    images = {name: _data_image(name, image) for name, image in result.images.items()}
    return {**overlays, **images, NPZ: _NPZ}


def _all_kinds() -> dict[str, OutputKind]:
    kinds = {name: kind for decoder in DECODERS.values() for name, kind in kinds_of(decoder.result).items()}
    kinds[NPZ] = kinds.pop(NPZ)  # the last, as of each
    return kinds


#: Of all kinds of results.
OUTPUT_KINDS: Mapping[str, OutputKind] = _all_kinds()


def outputs_of(picture: Picture, folder: Path, kinds: Iterable[str]) -> dict[str, Path]:
    """Kind -> the file that it is written to."""
    return {kind: picture.output(folder, OUTPUT_KINDS[kind].suffix) for kind in kinds}


def _save_png(rgb: np.ndarray, path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(rgb)).save(path, "PNG", compress_level=_PNG_COMPRESSION)
