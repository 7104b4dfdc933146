"""Checkpoints of wrappers and trainers: prefixes, moving averages, other entries. A remark says what is taken."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from densepose_engine import CheckpointError
from densepose_engine.export.checkpoint.load import load_checkpoint, load_weights


class Model(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(value)


def weights(value: float, prefix: str = "") -> dict[str, Any]:
    return {prefix + name: one.clone() for name, one in Model(value).state_dict().items()}


def loaded(path: Path, content: object) -> tuple[float, list[str]]:
    """The value that the model's weights then have, and the remarks."""
    torch.save(content, path)
    model = Model(-1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_weights(model, load_checkpoint(path))
    values = {float(parameter.detach().flatten()[0]) for parameter in model.parameters()}
    (value,) = values
    remarks = [str(one.message) for one in caught]
    assert all(len(remark) < 500 and "\n" not in remark for remark in remarks)
    return value, remarks


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.module.", "net.a.b.c."],
)
def test_a_prefix_of_all_names_is_dropped_with_a_remark(tmp_path: Path, prefix: str) -> None:
    value, (remark,) = loaded(tmp_path / "m.pth", {"model": weights(2, prefix)})
    assert value == 2 and "every name" in remark and prefix.removeprefix("module.") in remark


def test_the_prefix_of_data_parallel_needs_no_remark(tmp_path: Path) -> None:
    assert loaded(tmp_path / "m.pth", {"model": weights(2, "module.")}) == (2, [])


def test_what_stands_beside_the_network_is_still_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {**weights(2, "model."), "criterion.weight": torch.ones(1)}}, tmp_path / "m.pth")
    with pytest.warns(UserWarning, match=r"begin with model\."), pytest.raises(CheckpointError) as caught:
        load_weights(Model(), load_checkpoint(tmp_path / "m.pth"))
    assert "criterion.weight" in str(caught.value) and str(caught.value).count("\n") == 2


@pytest.mark.parametrize("other", ["ema_state", "model_ema", "ema", "teacher"])
def test_a_second_set_beside_model(tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"model": weights(2), other: weights(3, "module."), "iteration": 5}
    value, (remark,) = loaded(tmp_path / "m.pth", content)
    assert value == 2 and other in remark and "under model" in remark
    # What the remark says is what takes the other one.
    command = remark[remark.index("torch.save(") :]
    monkeypatch.chdir(tmp_path)
    exec(command, {"torch": torch})
    assert loaded(tmp_path / "n.pth", torch.load("other.pth"))[0] == 3


@pytest.mark.parametrize(
    ("make", "taken", "said"),
    [
        (lambda: {"model_ema": weights(3)}, 3, ["model_ema"]),
        (lambda: {"ema": weights(3), "raw": weights(2), "epoch": 1}, 2, ["raw", "ema"]),
        (lambda: {"state_dict": weights(2), "state_dict_ema": weights(3)}, 2, ["state_dict_ema"]),
        (lambda: {"model": {"state_dict": weights(2)}}, 2, []),
        (lambda: {**weights(2), **weights(3, "ema.")}, 2, ["ema."]),
        (lambda: {"state_dict": {**weights(3, "ema_model."), **weights(2, "model.")}}, 2, ["ema_model.", "model."]),
        (lambda: {"model": weights(2), "optimizer": {"state": {}, "param_groups": []}, "other": {"a": 1}}, 2, []),
    ],
)
def test_which_one_is_taken(tmp_path: Path, make: Callable[[], Any], taken: float, said: list[str]) -> None:
    value, remarks = loaded(tmp_path / "m.pth", make())
    assert value == taken
    for word in said:
        assert any(word in remark for remark in remarks), remarks
    assert bool(remarks) == bool(said)


def test_two_sets_of_unknown_names_are_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save({"student": weights(1), "teacher": weights(2)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="student, teacher") as caught:
        load_checkpoint(tmp_path / "m.pth")
    assert "torch.save" in str(caught.value) and "\n" not in str(caught.value)


def test_another_network_is_refused_in_a_sentence() -> None:
    others = {f"features.{index}.kernel": np.ones(3, np.float32) for index in range(500)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(Model(), others)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600 and "features.0.kernel" in text and "backbone.0.weight" in text


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="no regular file"):
            load_checkpoint(path)
