"""Kinds of networks, by what their maps mean: charts of the body, or embeddings of a surface's vertices."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..model.description import ModelDescription
from .base import Decoder, DetectionResult, read_result
from .charts import ChartDecoder
from .embeddings import EmbeddingDecoder

__all__ = ["DECODERS", "Decoder", "DetectionResult", "load_result", "make_decoder", "result_class"]

#: Every kind; a result file that names none has the first.
DECODERS: Mapping[str, type[Decoder]] = {decoder.kind: decoder for decoder in (ChartDecoder, EmbeddingDecoder)}


def make_decoder(model: ModelDescription, tensors: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder that a network's description asks for, with the description's ``tensors``.

    Raises:
        ValueError: there is no such kind, or the description is not that of such a network.
    """
    return _decoder(model.decoder.kind)(model, tensors)


def result_class(kind: str) -> type[DetectionResult]:
    """What decoders of a kind make. Raises ``ValueError`` where there is no such kind."""
    return _decoder(kind).result


def _decoder(kind: str) -> type[Decoder]:
    if kind not in DECODERS:
        raise ValueError(f"decoder.kind is {kind!r:.80}, this package has {', '.join(DECODERS)}")
    return DECODERS[kind]


def load_result(path: str | os.PathLike[str]) -> DetectionResult:
    """Read the result, of any kind, that its ``save`` wrote.

    Raises:
        FileNotFoundError, OSError: there is no such file, or it may not be read.
        DensePoseEngineError: it is truncated, damaged, or no result.

    >>> from densepose_engine import Engine
    >>> with Engine.load("demo.engine") as engine:
    ...     engine.infer("person.jpg").save("person.npz")
    >>> type(load_result("person.npz")).__name__
    'DensePoseResult'
    """
    return read_result(path, {kind: decoder.result for kind, decoder in DECODERS.items()})
