"""The fake engine keeps the contract of the real ones."""

from __future__ import annotations

import numpy as np
import pytest

from samedge.engines.protocol import Engine
from samedge.errors import EngineError, TensorMismatchError
from samedge.testing.engine import FakeEngine, fake_engine
from samedge.types import Array, TensorSpec

ROW = TensorSpec(("batch", 2), np.dtype(np.float32))


def double(feeds: dict[str, Array]) -> dict[str, Array]:
    return {"twice": feeds["x"] * 2, "half": feeds["x"] / np.float32(2)}


def test_runs_the_function_and_gives_the_outputs_asked_for() -> None:
    engine = fake_engine({"x": ROW}, {"twice": ROW, "half": ROW}, double, device="cuda:0", name="toy")
    got = engine.run({"x": np.ones((3, 2), np.float32)}, ["half"])
    assert list(got) == ["half"]
    np.testing.assert_array_equal(got["half"], np.full((3, 2), 0.5, np.float32))
    assert (engine.backend, engine.device, engine.name) == ("fake", "cuda:0", "toy")
    assert engine.details == {}


def test_feeds_are_checked_before_the_function_sees_them() -> None:
    raw = FakeEngine({"x": ROW}, {"twice": ROW, "half": ROW}, double)
    engine = Engine(raw, backend="fake", name="toy")
    with pytest.raises(TensorMismatchError, match=r"toy: input 'x' is float64\[3, 2\]"):
        engine.run({"x": np.ones((3, 2))})
    assert raw.calls == []


def test_calls_are_recorded() -> None:
    raw = FakeEngine({"x": ROW}, {"twice": ROW, "half": ROW}, double)
    engine = Engine(raw, backend="fake", name="toy")
    for size in (1, 4):
        engine.run({"x": np.ones((size, 2), np.float32)})
    assert [call["x"].shape for call in raw.calls] == [(1, 2), (4, 2)]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, r"returned \[\] but declares \['y'\]"),
        ({"y": np.ones((1, 3), np.float32)}, r"returned float32\[1, 3\] as 'y' but declares float32\[batch, 2\]"),
        ({"y": np.ones((1, 2))}, r"returned float64\[1, 2\]"),
    ],
)
def test_a_function_that_lies_is_found_out(result: dict[str, Array], message: str) -> None:
    engine = fake_engine({"x": ROW}, {"y": ROW}, lambda _: result)
    with pytest.raises(TensorMismatchError, match=message):
        engine.run({"x": np.ones((1, 2), np.float32)})


def test_closes_once_and_then_refuses() -> None:
    raw = FakeEngine({"x": ROW}, {"twice": ROW, "half": ROW}, double)
    with Engine(raw, backend="fake", name="toy") as engine:
        closed_inside = raw.closed
    assert [closed_inside, raw.closed] == [False, True]
    with pytest.raises(EngineError, match=r"toy: this engine is closed"):
        engine.run({"x": np.ones((1, 2), np.float32)})
    with pytest.raises(EngineError, match=r"closed"):
        raw.run({"x": np.ones((1, 2), np.float32)}, ["twice"])
