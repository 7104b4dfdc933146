"""The suite of ``make test-robust``, for seconds: it sees what it is there to see, and targets that load quickly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

# Those that need no engine; all have thousands of inputs in make test-robust.
pytestmark = pytest.mark.filterwarnings("ignore")  # of Pillow, about what is damaged
LIGHT = {"checkpoint": 60, "picture": 120, "result": 80, "kernels": 300}


@pytest.fixture(scope="module")
def fuzzing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The suite, with its files in a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUST_BUILD", str(tmp_path_factory.mktemp("robust")))
        from robust import fuzzing

        yield fuzzing
    for name in [name for name in sys.modules if name.split(".")[0] == "robust"]:
        del sys.modules[name]


def test_every_kind_of_failure_is_counted_once_and_kept(fuzzing: ModuleType) -> None:
    from robust.counts import FAILURES, table

    counts = fuzzing.run_target("self-check", 10)
    assert counts.tried == 10
    assert counts.crashes == 2  # a signal, and a process that ends on its own
    assert counts.hangs == 2  # one that computes for ever, and one that waits for ever
    assert counts.wrong == 2  # an exception that is not documented, and memory beyond the limit
    assert counts.lost == 7
    assert counts.failed
    kept = {path.read_text() for path in (FAILURES / "self-check").glob("*.txt") if path.name.endswith("-0.txt")}
    assert len(kept) == 7 and all("robust replay self-check" in text for text in kept)
    assert "all" in table([counts]) and " 7 " in table([counts])


@pytest.mark.parametrize("name", LIGHT)
def test_a_few_inputs_end_as_documented(fuzzing: ModuleType, name: str) -> None:
    """In a process with limits, as all inputs are run: one that fails may take the machine's memory with it."""
    from robust.targets import corpus

    counts = fuzzing.run_target(name, LIGHT[name])
    assert not counts.failures
    assert counts.tried == LIGHT[name] + len(corpus(name))


def test_the_same_number_makes_the_same_input(fuzzing: ModuleType, tmp_path: Path) -> None:
    from robust.targets import target_class

    for name in ("config", "result"):
        target = target_class(name)(tmp_path)
        first, second = ([target.make(Random(f"1/{name}/{n}")) for n in range(40)] for _ in range(2))
        assert first == second
        assert len(set(first)) > 30
