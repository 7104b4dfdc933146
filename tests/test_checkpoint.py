"""Checkpoints: what detectron2 and torch write is read, all else is refused in a sentence, loading guesses nothing."""

from __future__ import annotations

import collections
import contextlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import edited, refusal, same, write
from torch import nn

from densepose_engine.errors import CheckpointError
from densepose_engine.export.checkpoint.load import load_checkpoint, load_weights

WEIGHTS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.bias": np.array([1.5, -2.0], np.float64),
    "half": np.array([0.5], np.float16),
    "counter": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
}


# What is read.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    content = {"model": WEIGHTS, "__author__": "someone", "matching_heuristics": True}
    same(load_checkpoint(write(tmp_path / "model.pkl", pickle.dumps(content, protocol))), WEIGHTS)


def test_pickles_of_numpy_1(tmp_path: Path) -> None:
    data = pickle.dumps({"model": WEIGHTS}, 2)
    assert b"numpy._core.multiarray" in data
    same(load_checkpoint(write(tmp_path / "m.pkl", data.replace(b"numpy._core.", b"numpy.core."))), WEIGHTS)


def python2_pickle(array: np.ndarray) -> bytes:
    """``{"model": {"w": array}}`` as Python 2 wrote it in protocol 2: names and contents are byte strings."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"f4")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    contents = b"(K\x01" + shape + dtype + b"\x89" + text(array.tobytes()) + b"tb"
    return b"\x80\x02}" + text(b"model") + b"}" + text(b"w") + made + contents + b"ss."


def test_pickles_of_python_2(tmp_path: Path) -> None:
    array = np.linspace(-3, 3, 120, dtype=np.float32).reshape(10, 12)
    data = python2_pickle(array)
    np.testing.assert_array_equal(pickle.loads(data, encoding="latin1")["model"]["w"], array)  # the test's own check
    same(load_checkpoint(write(tmp_path / "m.pkl", data)), {"w": array})


def test_ordered_dicts(tmp_path: Path) -> None:
    content = collections.OrderedDict(model=collections.OrderedDict(WEIGHTS))
    same(load_checkpoint(write(tmp_path / "m.pkl", pickle.dumps(content, 4))), WEIGHTS)


def test_arrays_of_a_pickle_are_views_of_the_file(tmp_path: Path) -> None:
    loaded = load_checkpoint(write(tmp_path / "m.pkl", pickle.dumps({"model": WEIGHTS}, 4)))
    assert not any(a.flags.writeable for a in loaded.values() if isinstance(a, np.ndarray))


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(6.0).view(2, 3),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "parameter": nn.Parameter(torch.ones(3)),
        "half": torch.ones(2, dtype=torch.float16),
        "count": torch.tensor(3),
    }


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_torch_archives(tmp_path: Path, key: str | None) -> None:
    weights = tensors()
    torch.save({key: weights, "iteration": 3} if key else weights, tmp_path / "m.pth")
    loaded = load_checkpoint(tmp_path / "m.pth")
    same(loaded, {name: value.detach().numpy() for name, value in weights.items()})
    assert not any(value.requires_grad for value in loaded.values() if isinstance(value, torch.Tensor))


def test_bfloat16_archives(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "m.pth")
    assert load_checkpoint(tmp_path / "m.pth")["w"].dtype == torch.bfloat16


def test_archives_from_a_gpu_are_read_on_the_cpu(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "whole.pth")
    place = {b"X\x03\x00\x00\x00cpu": b"X\x06\x00\x00\x00cuda:0"}
    loaded = load_checkpoint(edited(tmp_path / "whole.pth", tmp_path / "gpu.pth", place))
    same(loaded, {"w": np.arange(4, dtype=np.float32)})


def test_training_checkpoints_with_an_optimizer(tmp_path: Path) -> None:
    model = nn.Conv2d(2, 3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2, 2, 2)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 3}}
    torch.save(content, tmp_path / "m.pth")
    assert set(load_checkpoint(tmp_path / "m.pth")) == {"weight", "bias"}


def test_the_contents_tell_the_format_not_the_name(tmp_path: Path) -> None:
    same(load_checkpoint(write(tmp_path / "m.pth", pickle.dumps({"model": WEIGHTS}))), WEIGHTS)
    torch.save({"w": torch.ones(2)}, tmp_path / "m.pkl")
    same(load_checkpoint(str(tmp_path / "m.pkl")), {"w": np.ones(2, np.float32)})


def test_the_prefix_of_data_parallel_models_is_dropped_where_all_names_have_it(tmp_path: Path) -> None:
    value = np.ones(1, np.float32)
    path = tmp_path / "m.pkl"
    assert list(load_checkpoint(write(path, pickle.dumps({"module.a": value, "module.b": value})))) == ["a", "b"]
    assert list(load_checkpoint(write(path, pickle.dumps({"module.a": value, "b": value})))) == ["module.a", "b"]


# What is refused, in a sentence.


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x93NUMPY\x01\x00", "begins with"),
        (b"(dp0\n.", "begins with"),
        (b"PK\x03\x04" + b"\x00" * 100, "truncated"),
        (b"\x80\x04", "truncated"),
        (b"\x80\x04.", "stack"),
        (b"\x80\x04\x85.", "stack"),
        (b"\x80\x04\xff.", "damaged"),
        (b"\x80\x04]s.", "stack"),
        (b"\x80\x04h\x05.", "does not hold"),
        (b"\x80\x04}N\x85K\x01s.", "a tuple as a key"),
        (b"\x80\x04}(NK\x01Nu.", "without a value"),
        (b"\x80\x04]K\x01b.", "state of a list"),
        (b"\x80\x04K\x01K\x02R.", "not a name"),
        (b"\x80\x04\x8c\x01xQ.", "outside"),
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x04X\x01\x00\x00\x00\xff.", "damaged"),
        (pickle.dumps([1, 2]), "list"),
        (pickle.dumps({}), "no weights"),
        (pickle.dumps({"model": {}}), "no weights"),
        (pickle.dumps({"epoch": 3}), "epoch (int)"),
        (pickle.dumps({"model": {"w": [1.0, 2.0]}}), "w (list)"),
        (pickle.dumps({"model": {3: np.ones(1)}}), "3 (ndarray)"),
        (pickle.dumps({"blobs": {"conv1_w": np.ones(1)}}), "Caffe2"),
        (pickle.dumps({"w": np.array([object()])}), "plain numbers"),
        (pickle.dumps({"w": np.array(["text"])}), "plain numbers"),
        (pickle.dumps({"w": np.zeros(2, [("x", "f4")])}), "plain numbers"),
        (pickle.dumps({"w": np.zeros(2, np.complex64)}), "plain numbers"),
        (pickle.dumps({"w": np.ma.ones(2)}), "numpy.ma"),
        (pickle.dumps({"w": torch.ones(2)}), "torch"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refusal(write(tmp_path / "model.pkl", data))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "nowhere.pth")
    assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"model": {"w": np.arange(4, dtype=np.float32)}}, protocol)
    for length in range(2, len(data)):
        assert "copy it again" in refusal(write(tmp_path / "m.pkl", data[:length]))


@pytest.mark.filterwarnings("ignore:.*are taken")
def test_a_pickle_with_any_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"model": {"w": np.arange(4, dtype=np.float32)}}, 4)
    for index in range(2, len(data)):
        for value in (0, 0x28, 0x52, 0x7F, 0xFF):
            path = write(tmp_path / "m.pkl", data[:index] + bytes([value]) + data[index + 1 :])
            with contextlib.suppress(CheckpointError):
                load_checkpoint(path)


def test_an_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    for length in range(4, len(data), 7):
        refusal(write(tmp_path / "m.pth", data[:length]))


def test_the_format_of_old_torch(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    message = refusal(tmp_path / "m.pth")
    assert "before 1.6" in message
    assert "torch.save" in message


def test_zip_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "torch.save did not write it" in refusal(tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"\x80\x02}.")
    assert "TorchScript" in refusal(tmp_path / "script.pth")


# Loading into a model.


class Model(nn.Module):
    """A convolution with its norm, as in a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)


def good() -> dict[str, Any]:
    state = {name: value.numpy().copy() for name, value in Model().state_dict().items()}
    state["conv.weight"] += 5
    return state


def problem(weights: dict[str, Any]) -> str:
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "partly loaded"
    return str(caught.value)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, lambda a: np.asarray(a, a.dtype.newbyteorder(">"))])
def test_weights_arrive(convert: Callable[[np.ndarray], Any]) -> None:
    model, weights = Model(), good()
    load_weights(model, {name: convert(value) for name, value in weights.items()})
    np.testing.assert_array_equal(model.conv.weight.detach().numpy(), weights["conv.weight"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(dtype: type) -> None:
    model = Model()
    load_weights(model, {n: v.astype(dtype) if v.dtype == np.float32 else v for n, v in good().items()})
    assert {value.dtype for name, value in model.state_dict().items() if "tracked" not in name} == {torch.float32}


def test_harmless_differences() -> None:
    weights = good()
    del weights["norm.num_batches_tracked"]
    weights |= {
        "pixel_mean": np.ones((3, 1, 1), np.float32),
        "pixel_std": np.ones((3, 1, 1), np.float32),
        "proposal_generator.anchor_generator.cell_anchors.0": np.ones((3, 4), np.float32),
        "elsewhere.num_batches_tracked": np.array(3),
    }
    load_weights(Model(), weights)


def test_all_that_does_not_fit_is_named_at_once() -> None:
    weights = good()
    del weights["conv.bias"], weights["norm.running_mean"]
    weights |= {"extra.weight": np.ones(1), "pixel_mean.x": np.ones(1)}
    weights["norm.weight"] = np.ones(4, np.float32)
    weights["conv.weight"] = np.ones((3, 2), np.float32)
    message = problem(weights)
    for text in (
        "missing in the checkpoint (2)",
        "conv.bias",
        "norm.running_mean",
        "not in the model (2)",
        "extra.weight",
        "pixel_mean.x",
        "of another shape (2)",
        "norm.weight: 4 in the checkpoint, 3 in the model",
        "conv.weight: 3×2 in the checkpoint, 3×2×1×1 in the model",
    ):
        assert text in message


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("conv.weight", np.full((3, 2, 1, 1), np.nan, np.float32), "NaN or infinity"),
        ("conv.bias", np.array([0, np.inf, 0], np.float32), "NaN or infinity"),
        ("conv.bias", np.array([0, 1e300, 0]), "NaN or infinity"),
        ("conv.bias", np.array([1, 2, 3]), "int64 where floating point is needed"),
        ("conv.bias", np.array([True, False, True]), "bool where floating point is needed"),
        ("conv.bias", torch.tensor([1, 2, 3]), "int64 where floating point is needed"),
        ("norm.running_var", np.array([1, -1, 1], np.float32), "negative variance"),
    ],
)
def test_values_that_cannot_be_weights_are_named(name: str, value: Any, says: str) -> None:
    message = problem(good() | {name: value})
    assert f"{name}: " in message
    assert says in message
