"""The files that ``infer`` makes of a picture, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..pictures.find import Picture

if TYPE_CHECKING:
    import numpy as np

    from ..result import DensePoseResult

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

    ``render(rgb, result, look)``: what is to be seen of it, uint8 RGB of the picture's size; None for a file of data.
    """

    suffix: str
    render: Callable[[np.ndarray, DensePoseResult, Look], np.ndarray] | None = None

    def save(self, rgb: np.ndarray, result: DensePoseResult, look: Look, path: Path) -> None:
        """Write the file. Raises ``OSError``."""
        if self.render is None:
            result.save(path)
        else:
            _save_png(self.render(rgb, result, look), path)


def _overlay(*layers: str) -> Callable[[np.ndarray, DensePoseResult, Look], np.ndarray]:
    def render(rgb: np.ndarray, result: DensePoseResult, look: Look) -> np.ndarray:
        from .overlays import draw

        return draw(rgb, result, layers, score_threshold=look.score_threshold)

    return render


def _iuv(rgb: np.ndarray, result: DensePoseResult, look: Look) -> np.ndarray:
    from .overlays import people_above

    image = people_above(result, look.score_threshold).iuv()
    return image if look.iuv_order == "iuv" else image[..., ::-1]


OUTPUT_KINDS: Mapping[str, OutputKind] = {
    "parts": OutputKind(".parts.png", _overlay("parts", "boxes")),
    "u": OutputKind(".u.png", _overlay("u")),
    "v": OutputKind(".v.png", _overlay("v")),
    "contours": OutputKind(".contours.png", _overlay("contours")),
    "iuv": OutputKind(".iuv.png", _iuv),
    "npz": OutputKind(".npz"),
}


def outputs_of(picture: Picture, folder: Path, kinds: Iterable[str]) -> dict[str, Path]:
    """Kind -> the file that it is written to."""
    return {kind: picture.output(folder, OUTPUT_KINDS[kind].suffix) for kind in kinds}


def _save_png(rgb: np.ndarray, path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(rgb)).save(path, "PNG", compress_level=_PNG_COMPRESSION)
