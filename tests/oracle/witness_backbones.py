"""Makes ``tests/data/backbones.json`` with timm 0.4.12, the code that DensePoseFnL takes its backbones from.

``pip install --no-deps --target FOLDER timm==0.4.12``, then run this with ``PYTHONPATH=FOLDER``.
Of every backbone the file has the checksum of its names and shapes, and some values of its taps on random input.
"""

from __future__ import annotations

import collections.abc
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from backbone_digest import digest_of_names, picture, sampled  # noqa: E402 (found by the line above)
from weights import state_dict  # noqa: E402

from densepose_engine.export.networks.mobile_architectures import MOBILE_ARCHITECTURES  # noqa: E402


class _Anything(types.ModuleType):
    """Stands in for what timm imports for its data sets and other networks."""

    __path__ = ()  # a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return (0.5, 0.5, 0.5) if name.isupper() else type(name, (), {})


def _prepare() -> None:
    names = ["torchvision", "torchvision.ops", "torchvision.ops.misc", "timm.data", "timm.data.constants"]
    for name in names:
        sys.modules.setdefault(name, _Anything(name))
    six = types.ModuleType("torch._six")  # removed from torch since
    six.container_abcs = collections.abc  # type: ignore[attr-defined]
    sys.modules["torch._six"] = six


def main() -> None:
    _prepare()
    import timm.models

    result = {}
    for name in MOBILE_ARCHITECTURES:
        model = timm.models.create_model(
            name, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4), feature_location="expansion"
        )
        model.load_state_dict(state_dict(model))
        with torch.no_grad():
            taps = model.eval()(picture())
        result[name] = {
            "names": digest_of_names(model),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "taps": [{"shape": list(tap.shape), "values": sampled(tap)} for tap in taps],
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in result.items())
    (TESTS / "data/backbones.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
