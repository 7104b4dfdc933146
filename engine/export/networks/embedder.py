"""The embeddings of meshes' vertices, with detectron2's parameter names (DensePose ``modeling/cse``).

They depend on no picture: export computes them once, and only what comes out goes into a graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.model_config import EmbedderConfig, EmbeddingPredictorConfig

_LEAST_NORM = 1e-6  # detectron2's; a shorter row is divided by it


class VertexEmbedder(nn.Module):
    """The embeddings of one mesh: a matrix, which for "vertex_feature" the vertices' features multiply.

    ``features`` ``(V, F)`` and ``embeddings`` ``(F, D)``, or ``embeddings`` ``(V, D)`` alone.
    """

    embeddings: Tensor
    features: Tensor

    def __init__(self, config: EmbedderConfig, size: int) -> None:
        super().__init__()
        rows = config.num_vertices
        # Buffers of zeros: memory is the system's until a checkpoint fills them, however large a YAML says they are.
        if config.feature_dim is not None:
            self.register_buffer("features", torch.zeros(rows, config.feature_dim))
            rows = config.feature_dim
        self.embeddings = nn.Parameter(torch.zeros(rows, size))
        self._has_features = config.feature_dim is not None

    def forward(self) -> Tensor:
        """float32 ``(V, D)``, each row of length 1 (a row of zeros stays one); computed in float64."""
        rows = self.embeddings.double()
        if self._has_features:
            rows = self.features.double() @ rows
        return (rows / rows.norm(dim=1, keepdim=True).clamp(min=_LEAST_NORM)).float()


class Embedder(nn.Module):
    """The embedders of all meshes, each the child ``embedder_MESH``."""

    def __init__(self, config: EmbeddingPredictorConfig) -> None:
        super().__init__()
        self.meshes = tuple(one.mesh for one in config.embedders)
        for one in config.embedders:
            self.add_module(_child(one.mesh), VertexEmbedder(one, config.embedding_size))

    def forward(self, mesh: str) -> Tensor:
        """Of one mesh, by its name; see :class:`VertexEmbedder`."""
        return self.get_submodule(_child(mesh))()


def _child(mesh: str) -> str:
    return f"embedder_{mesh}"
