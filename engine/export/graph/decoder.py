"""What a graph says of who reads its maps, and the constant tensors that it holds for them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...model.decoder import PREFIX, DecoderDescription, TensorDescription
from ..config.model_config import EmbeddingPredictorConfig
from ..model import DensePoseRCNN

#: The kind of decoder that looks for the closest vertex of a mesh.
EMBEDDINGS = "embeddings"


def describe_decoder(model: DensePoseRCNN) -> tuple[DecoderDescription, dict[str, np.ndarray]]:
    """The decoder of ``model``'s maps, and its tensors by name.

    Charts need nothing. Embeddings need those of the vertices of every mesh that the configuration has, whether a class
    maps to it or not: who uses a class-agnostic model chooses the mesh.
    """
    config = model.config.densepose.predictor
    if not isinstance(config, EmbeddingPredictorConfig):
        return DecoderDescription(), {}
    meshes = [one.mesh for one in config.embedders]
    tensors = {f"vertex_embeddings/{i}": model.vertex_embeddings(mesh).numpy() for i, mesh in enumerate(meshes)}
    settings = {
        "meshes": meshes,
        "class_meshes": list(config.class_meshes),
        "embedding_size": config.embedding_size,
    }
    described = tuple(TensorDescription(name, str(array.dtype), array.shape) for name, array in tensors.items())
    return DecoderDescription(EMBEDDINGS, described, settings), tensors


def add_decoder_tensors(graph: ir.Graph, tensors: dict[str, np.ndarray]) -> None:
    """Put the tensors into ``graph`` as initializers that no node reads."""
    for name, array in tensors.items():
        value = ir.Value(name=PREFIX + name, const_value=ir.tensor(array, name=PREFIX + name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
        graph.register_initializer(value)
