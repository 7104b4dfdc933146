"""Checks a ``torch.save`` archive before torch reads it.

``torch.load(weights_only=True)`` runs no foreign code, but it believes what an archive declares: it inflates compressed
entries, and calls ``bytearray(n)``, ``torch.Tensor(n)`` and other allowed constructors with any n. So the archive's own
description is first read as data (``files.pickle_reader``), and only plain tensors over storages that the file really
holds pass.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any

from ...files.numpy_pickle import ordered_dict
from ...files.pickle_reader import Budget, Builder, DamagedPickleError, Global, Opaque, PickleError, read_pickle

_STORAGE_BYTES: Mapping[str, int] = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}


class _Storage(Opaque):
    """A storage of ``count`` elements."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Tensor(Opaque):
    """A tensor, of which only its validity matters here."""


def check_torch_archive(file: IO[bytes], size: int) -> None:
    """Raises ``PickleError`` unless torch can read the archive of ``size`` bytes safely."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = {entry.filename: entry.file_size for entry in entries}
            if len(names) != len(entries):
                raise PickleError("it holds two entries of the same name")
            if any(name.endswith("/constants.pkl") for name in names):
                raise PickleError("it is a TorchScript program, not a checkpoint")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise PickleError("it holds compressed or encrypted entries, which torch.save never writes")
            if max(sum(names.values()), sum(entry.compress_size for entry in entries)) > size:
                raise PickleError("its entries overlap")
            pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise PickleError("it is a zip file, but torch.save did not write it")
            root = pickles[0].removesuffix("data.pkl")
            with archive.open(pickles[0]) as stream:
                read_pickle(stream, names[pickles[0]], _BUILDERS, _storage_reader(names, root))
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise DamagedPickleError(f"it is truncated or damaged ({error!s:.200})") from error


def _storage_reader(names: Mapping[str, int], root: str) -> Callable[[Any], _Storage]:
    def read(persistent_id: Any) -> _Storage:
        match persistent_id:
            case ("storage", Global("torch", kind), str() as key, str(), int() as count) if kind in _STORAGE_BYTES:
                if names.get(f"{root}data/{key}") != count * _STORAGE_BYTES[kind]:
                    raise PickleError("it declares a storage of another size than it holds")
                return _Storage(count)
            case _:
                raise PickleError("it refers to a storage of an unknown kind")

    return read


def _tensor(arguments: tuple[Any, ...], budget: Budget) -> _Tensor:
    """``torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)``."""
    match arguments:
        case (_Storage() as storage, int() as offset, tuple() as shape, tuple() as stride, bool(), dict()):
            if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
                raise PickleError("it declares a tensor with an impossible shape")
            last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
            if 0 not in shape and last >= storage.count:
                raise PickleError("it declares a tensor that is larger than its storage")
            return _Tensor()
        case _:
            raise PickleError("it holds a tensor that is not a plain one")


def _parameter(arguments: tuple[Any, ...], budget: Budget) -> _Tensor:
    """``torch._utils._rebuild_parameter(tensor, requires_grad, hooks)``."""
    match arguments:
        case (_Tensor() as tensor, bool(), dict()):
            return tensor
        case _:
            raise PickleError("it holds a parameter that is not a plain one")


def _refuse_call(arguments: tuple[Any, ...], budget: Budget) -> Opaque:
    raise PickleError("it calls a storage's class")


_BUILDERS: Mapping[tuple[str, str], Builder] = {
    ("collections", "OrderedDict"): ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", kind): _refuse_call for kind in _STORAGE_BYTES},
}
