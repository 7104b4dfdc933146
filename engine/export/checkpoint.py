"""Reads detectron2 checkpoints without trusting them, and loads weights into a model without guessing.

A ``.pth`` is read by ``torch.load(weights_only=True)`` after its archive was checked, a ``.pkl`` of detectron2's model
zoo as data. What kind a file is, is told by its contents, not by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .generations import advice
from .numpy_pickle import NUMPY_BUILDERS, PickledArray
from .pickle_reader import DamagedPickleError, PickleError, read_pickle
from .torch_archive import check_torch_archive

_ZIP, _PICKLE, _OLD_TORCH = b"PK\x03\x04", b"\x80", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PREFIX = "module."
# In checkpoints, but not parameters: detectron2 takes these from the configuration.
_DERIVED = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
_COUNTER = ".num_batches_tracked"
_BATCH_NORM_EPS = 1e-5


def load_checkpoint(path: str | Path) -> dict[str, Tensor | np.ndarray]:
    """The weights in a checkpoint by parameter name: CPU tensors from a ``.pth``, arrays from a ``.pkl``.

    Takes what stands under ``model`` or ``state_dict`` where there is such an entry, and drops ``module.`` where every
    name begins with it. Arrays are read-only views in the file's byte order.

    Raises :class:`~densepose_engine.errors.CheckpointError` for everything that is not a checkpoint of plain numbers.
    No code from the file is run, and no more memory is taken than some times the file's size.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _weights_of(_read(file, size, path), path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error


def _read(file: BinaryIO, size: int, path: Path) -> Any:
    start = file.read(len(_OLD_TORCH))
    file.seek(0)
    try:
        if start.startswith(_OLD_TORCH):
            raise PickleError("it is in the format of torch before 1.6")
        if start.startswith(_ZIP):
            check_torch_archive(file, size)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        if start.startswith(_PICKLE):
            return read_pickle(file, size, NUMPY_BUILDERS)
    except DamagedPickleError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}. Fetch or copy it again") from error
    except PickleError as error:
        raise CheckpointError(
            f"the checkpoint {path} is refused: {error}. If you trust it, open it where it was made and save the "
            'weights alone: torch.save({"model": {name: tensor, ...}}, "model.pth")'
        ) from error
    except Exception as error:  # torch documents no list of what it raises
        raise CheckpointError(f"torch cannot read the checkpoint {path}: {error}") from error
    raise CheckpointError(f"{path} is not a checkpoint: {_looks_like(start)}")


def _looks_like(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"version https:"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if start.lstrip().startswith(b"<"):
        return "it is a web page, so the download went wrong"
    return f"it begins with {start[:4]!r}, where torch.save writes a zip file and detectron2 a binary pickle"


def _weights_of(content: Any, path: Path) -> dict[str, Tensor | np.ndarray]:
    """The name -> weights mapping in what the file holds."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a mapping of names to weights")
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    if "blobs" in content:
        raise CheckpointError(
            f"{path} is a Caffe2 checkpoint of Detectron 1, whose names differ; load it in detectron2 and save it there"
        )
    if not content:
        raise CheckpointError(f"{path} holds no weights")

    weights: dict[str, Tensor | np.ndarray] = {}
    others = []
    for name, value in content.items():
        if isinstance(value, PickledArray):
            value = value.array
        if not isinstance(name, str) or not isinstance(value, Tensor | np.ndarray):
            others.append(f"{str(name)[:200]} ({type(value).__name__})")
            continue
        weights[name] = value.detach() if isinstance(value, Tensor) else value
    if others:
        raise CheckpointError(
            f"{path} is not a mapping of names to weights; it holds also {', '.join(others[:10])}. "
            "Weights belong under the entry `model`"
        )
    if all(name.startswith(_PREFIX) for name in weights):
        weights = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor | np.ndarray]) -> None:
    """Copies ``weights`` into ``model`` as float32, strictly: every name and every shape must fit.

    Allowed differences: ``pixel_mean``, ``pixel_std`` and cell anchors (they come from the configuration) and BatchNorm
    counters, which inference does not use.

    Raises :class:`~densepose_engine.errors.CheckpointError` with all missing, unexpected and differently shaped names
    at once, or with all names whose values are not finite or are not numbers of the right kind.
    """
    expected: dict[str, Tensor] = model.state_dict()

    def derived(name: str) -> bool:
        return name.endswith(_COUNTER) or _DERIVED.fullmatch(name) is not None

    missing = [n for n in expected if n not in weights and not derived(n)]
    unexpected = [n for n in weights if n not in expected and not derived(n)]
    misshaped = [
        f"{n}: {_shape(weights[n].shape)} in the checkpoint, {_shape(expected[n].shape)} in the model"
        for n in expected
        if n in weights and not derived(n) and tuple(weights[n].shape) != tuple(expected[n].shape)
    ]
    if missing or unexpected or misshaped:
        config = getattr(model, "config", None)
        advised = advice(config, weights) if config is not None else None
        raise CheckpointError(
            "the checkpoint does not belong to this configuration"
            + (f". {advised}" if advised else "")
            + _listing("missing in the checkpoint", missing)
            + _listing("not in the model", unexpected)
            + _listing("of another shape", misshaped)
        )

    state, wrong = {}, []
    for name, current in expected.items():
        if derived(name) or name not in weights:
            state[name] = current
            continue
        given = weights[name]
        if not (given.is_floating_point() if isinstance(given, Tensor) else given.dtype.kind == "f"):
            wrong.append(f"{name}: {given.dtype} where floating point is needed")
            continue
        state[name] = value = _as_tensor(given).to(current.dtype)
        if not bool(torch.isfinite(value).all()):
            wrong.append(f"{name}: NaN or infinity")
        elif name.endswith(".running_var") and bool((value + _BATCH_NORM_EPS <= 0).any()):
            wrong.append(f"{name}: negative variance")
    if wrong:
        raise CheckpointError("the checkpoint holds values that cannot be weights" + _listing("unusable", wrong))
    model.load_state_dict(state, strict=True)


def _as_tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _listing(title: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"\n{title} ({len(names)}):" + "".join(f"\n  {name[:300]}" for name in names)
