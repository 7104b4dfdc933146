"""Reads detectron2 checkpoints without trusting them, and loads weights into a model without guessing.

A ``.pth`` is read by ``torch.load(weights_only=True)`` after its archive was checked, a ``.pkl`` of detectron2's model
zoo as data. What kind a file is, is told by its contents, not by its name.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...files.fields import shown
from ...files.numpy_pickle import NUMPY_BUILDERS, PickledArray
from ...files.pickle_reader import DamagedPickleError, PickleError, read_pickle
from ...files.reading import NotRegularError, check_zip_directory, open_regular
from .generations import advice
from .maps import advice_on_classes, advice_on_maps
from .torch_archive import check_torch_archive

_ZIP, _PICKLE, _OLD_TORCH = b"PK\x03\x04", b"\x80", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_DATA_PARALLEL = "module."
# Where trainers put the weights that a run is judged by, most common first.
_ENTRIES = ("model", "state_dict", "model_state_dict", "network", "net", "weights", "params", "module")
_LONGEST_NAME = 1000  # with a prefix that is looked for
_DEEPEST = 3  # entries inside entries
_DIRECTORY_LIMIT = 16 << 20  # of the zip's list of members; a large checkpoint's has some 100 KB
# In checkpoints, but not parameters: detectron2 takes these from the configuration.
_DERIVED = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
_COUNTER = ".num_batches_tracked"
_BATCH_NORM_EPS = 1e-5


def load_checkpoint(path: str | Path) -> dict[str, Tensor | np.ndarray]:
    """The weights in a checkpoint by parameter name: CPU tensors from a ``.pth``, arrays from a ``.pkl``.

    Takes what stands under ``model`` or ``state_dict`` where there is such an entry; otherwise the only entry that
    holds weights. Of other entries that hold the same weights, such as a moving average, a warning says how to take
    them instead. ``module.``, which ``DataParallel`` adds, is dropped where every name begins with it. Arrays are
    read-only views in the file's byte order.

    Raises :class:`~densepose_engine.errors.CheckpointError` for everything that is not a checkpoint of plain numbers.
    No code from the file is run, and no more memory is taken than some times the file's size.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            return _weights_of(_read(file, os.fstat(file.fileno()).st_size, path), path)
    except NotRegularError as error:
        raise CheckpointError(f"{error}; a checkpoint is a file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error!s:.1000}") from error


def _read(file: BinaryIO, size: int, path: Path) -> Any:
    start = file.read(len(_OLD_TORCH))
    file.seek(0)
    try:
        if start.startswith(_OLD_TORCH):
            raise PickleError("it is in the format of torch before 1.6")
        if start.startswith(_ZIP):
            try:
                check_zip_directory(file, _DIRECTORY_LIMIT)
            except ValueError as error:
                raise PickleError(str(error)) from None
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
        raise CheckpointError(f"torch cannot read the checkpoint {path}: {error!s:.1000}") from error
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
    entries: tuple[str, ...] = ()
    while len(entries) < _DEEPEST and (entry := _entry(content, entries, path)) is not None:
        content, entries = content[entry], (*entries, entry)
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
            others.append(f"{_shown(name)} ({type(value).__name__})")
            continue
        weights[name] = value.detach() if isinstance(value, Tensor) else value
    if others:
        raise CheckpointError(
            f"{path} is not a mapping of names to weights; it holds also {', '.join(others[:10])}. "
            "Weights belong under the entry `model`"
        )
    if all(name.startswith(_DATA_PARALLEL) for name in weights):
        weights = {name.removeprefix(_DATA_PARALLEL): value for name, value in weights.items()}
    return weights


def _shown(name: object) -> str:
    return name[:200] if isinstance(name, str) else shown(name)


def _entry(content: dict[Any, Any], where: tuple[str, ...], path: Path) -> str | None:
    """The key of the entry that holds the weights; None where they stand in ``content`` itself."""
    if "blobs" in content:
        return None
    found = {key: value for key, value in content.items() if isinstance(key, str) and _holds_weights(value)}
    chosen = next((key for key in _ENTRIES if key in found), None)
    if chosen is None:
        # An entry of another name counts only beside things that are no weights: a mapping may be empty by chance.
        if len(found) > 1 and not any(map(_is_weight, content.values())):
            plain = [key for key in found if not _averaged(key)]
            if len(plain) != 1:
                raise CheckpointError(
                    f"{path} holds several sets of weights, under {_names(found)}, and none under `model`; save one of "
                    f"them alone: {_saving(path, where, next(iter(found)))}"
                )
            chosen = plain[0]
        elif len(found) == 1 and not any(map(_is_weight, content.values())):
            chosen = next(iter(found))
        elif isinstance(content.get("model"), dict):  # with nothing in it, or with what is refused by name
            return "model"
        else:
            return None
    twins = [key for key, value in found.items() if key != chosen and _same_network(value, found[chosen])]
    if twins:
        warnings.warn(
            f"{path} holds the network {len(twins) + 1} times: the weights under {chosen[:80]} are taken, not those "
            f"under {_names(twins)}; to take these instead, save them alone: {_saving(path, where, twins[0])}",
            UserWarning,
            stacklevel=3,
        )
    elif chosen not in ("model", "state_dict"):
        warnings.warn(f"{path}: the weights under {chosen[:80]} are taken", UserWarning, stacklevel=3)
    return chosen


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray | PickledArray)


def _holds_weights(value: object, depth: int = _DEEPEST) -> bool:
    """Whether it is a mapping of names to weights, perhaps an entry further down."""
    if not isinstance(value, dict) or not value or depth == 0:
        return False
    if all(isinstance(key, str) for key in value) and all(map(_is_weight, value.values())):
        return True
    return any(key in _ENTRIES and _holds_weights(inner, depth - 1) for key, inner in value.items())


def _averaged(key: str) -> bool:
    """Whether an entry's or a module's name says that it is a moving average."""
    return any(word in re.split(r"[._]", key.lower()) for word in ("ema", "averaged", "avg", "swa"))


def _same_network(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether most of the weights have the same names, prefixes not counted."""
    names = {_tail(name) for name in _leaves(other)}
    return 2 * sum(_tail(name) in names for name in _leaves(one)) > len(names)


def _leaves(content: dict[Any, Any]) -> Iterable[str]:
    if len(content) == 1 and isinstance(inner := next(iter(content.values())), dict):
        return _leaves(inner)
    return [key for key in content if isinstance(key, str)]


def _tail(name: str) -> str:
    return ".".join(name.split(".")[-3:])


def _names(keys: Iterable[str]) -> str:
    return ", ".join(key[:80] for key in list(keys)[:5])


def _saving(path: Path, where: tuple[str, ...], key: str) -> str:
    places = "".join(f"[{name!r}]" for name in (*where, key[:80]))
    if path.suffix == ".pkl":
        return f"pickle.dump of a mapping whose entry `model` is that of {places}"
    return f'torch.save({{"model": torch.load({str(path)!r}, weights_only=True){places}}}, "other.pth")'


def _without_prefix(
    weights: Mapping[str, Tensor | np.ndarray], expected: Mapping[str, Tensor]
) -> Mapping[str, Tensor | np.ndarray]:
    """The weights with the names that the model has, where a wrapper put something before all of them.

    ``DataParallel`` puts ``module.`` there, ``torch.compile`` ``_orig_mod.``, Lightning the attribute's name, and each
    of them goes around the others.
    """
    wanted = {name for name in expected if not name.endswith(_COUNTER)}
    hits = Counter({"": len(wanted & weights.keys())})
    for name in weights:
        at = name.find(".") if len(name) <= _LONGEST_NAME else -1
        while at >= 0:
            if name[at + 1 :] in wanted:
                hits[name[: at + 1]] += 1
            at = name.find(".", at + 1)
    whole = [prefix for prefix, count in hits.items() if 2 * count > len(wanted)]
    if whole in ([], [""]):
        return weights
    prefix = next((one for one in whole if not _averaged(one)), whole[0])
    others = [one for one in whole if one != prefix]
    # A second copy of the network is left aside; whatever else there is must be said, as of any checkpoint.
    aside = tuple(one for one in others if one)
    kept = [name for name in weights if not name.startswith(aside)]
    stripped = {name.removeprefix(prefix): weights[name] for name in kept}
    rest = [name for name in kept if not name.startswith(prefix)]
    if others:
        said = prefix[:80] or "nothing before them"
        remark = (
            f"the checkpoint holds the network {len(whole)} times: the weights whose names have {said} are taken, "
            f"not those with {_names(others)}; to take these instead, save them alone, as "
            f"{{n.removeprefix({others[0][:80]!r}): w for n, w in weights.items() if n.startswith({others[0][:80]!r})}}"
        )
    elif rest:
        remark = f"the network's names in the checkpoint begin with {prefix[:80]}, which was dropped"
    else:
        remark = f"every name in the checkpoint begins with {prefix[:80]}, which was dropped"
    warnings.warn(remark, UserWarning, stacklevel=2)
    return stripped


def load_weights(model: nn.Module, weights: Mapping[str, Tensor | np.ndarray]) -> None:
    """Copies ``weights`` into ``model`` as float32, strictly: every name and every shape must fit.

    Allowed differences: a prefix before all names, which a wrapper such as ``torch.compile`` puts there (a warning says
    what was dropped), ``pixel_mean``, ``pixel_std`` and cell anchors (they come from the configuration) and BatchNorm
    counters, which inference does not use.

    Raises :class:`~densepose_engine.errors.CheckpointError` with all missing, unexpected and differently shaped names
    at once, or with all names whose values are not finite or are not numbers of the right kind.
    """
    expected: dict[str, Tensor] = model.state_dict()

    def derived(name: str) -> bool:
        return name.endswith(_COUNTER) or _DERIVED.fullmatch(name) is not None

    weights = _without_prefix(weights, expected)
    config = getattr(model, "config", None)
    if not expected.keys() & weights.keys():
        advised = _advice(config, weights)
        raise CheckpointError(
            f"the checkpoint does not belong to this configuration: none of its {len(weights)} names is one of the "
            f"model's; it has {_names(weights)}, and so on, the model {_names(expected)}, and so on"
            + (f". {advised}" if advised else "")
        )
    missing = [n for n in expected if n not in weights and not derived(n)]
    unexpected = [n for n in weights if n not in expected and not derived(n)]
    misshaped = [
        f"{n}: {_shape(weights[n].shape)} in the checkpoint, {_shape(expected[n].shape)} in the model"
        for n in expected
        if n in weights and not derived(n) and tuple(weights[n].shape) != tuple(expected[n].shape)
    ]
    if missing or unexpected or misshaped:
        advised = _advice(config, weights)
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


def _advice(config: Any, weights: Mapping[str, Tensor | np.ndarray]) -> str | None:
    """Why the weights do not fit, if that can be told."""
    if config is None:
        return None
    # What the maps are comes first: what is said of generations is said of charts.
    return advice_on_maps(config, weights) or advice(config, weights) or advice_on_classes(config, weights)


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
